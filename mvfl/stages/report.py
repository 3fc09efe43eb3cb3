"""Stage `report`: one page per experiment, a single HTML file that opens from disk."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from mvfl.layout import Reconstruction, Verdict
from mvfl.records.decision import DecisionRecord
from mvfl.records.provenance import Provenance
from mvfl.records.scores import ReconstructionScores, ViewScores
from mvfl.runtime.provenance import write_provenance
from mvfl.stages.jobs import ReportJob
from mvfl.stages.pages import inline, links, write_page

LABELS = {
    "model": "this model", "nearest": "nearest training sample", "mean": "mean view", "copy": "copy of the input",
    "blank": "blank picture",
}  # fmt: skip

MODEL_LABELS = {
    "base": "the base without fine-tuning", "finetuned": "the fine-tuned weights, not used",
    "copy": "the {made} view of the nearest camera", "mean": "mean of the {made} views", "blank": "blank picture",
    "hull": "the coloured visual hull of the {made} views",
}  # fmt: skip


LARGEST_VIEWER = 3_100_000  # bytes; a larger one stays a file of its own, so that the page opens quickly


def run(job: ReportJob) -> None:
    """Write the page.

    Raises:
        InputError: a result is missing or damaged.
    """
    verdict = Verdict(job.evaluation)
    decision, scores = DecisionRecord.read(verdict.decision), ViewScores.read(verdict.metrics)
    settings = job.experiment.model_dump(mode="json")
    table = {"model": scores.model, **scores.baselines}
    write_page(
        job.out,
        "page",
        name=job.name,
        pages=links(job.out, {"the data set": job.data_page} if job.data_page else {}),
        made="rendered" if job.rendered else "recorded",
        decision=decision,
        metrics=scores,
        settings=settings,
        settings_text=yaml.safe_dump(settings, sort_keys=False),
        thresholds_text=yaml.safe_dump(decision.computed.thresholds, sort_keys=False),
        provenance=Provenance.read(verdict.provenance),
        images={"views": inline(verdict.views), "loss": inline(verdict.loss)},
        slots=[
            (slot, own, max(scores.baselines_per_slot[k][slot]["psnr"] for k in ("blank", "copy", "mean")))
            for slot, own in scores.measurements.slots.items()
        ],
        rows=[(label, table[key]) for key, label in LABELS.items() if key in table],
        best={m: max(row[m] for row in table.values()) for m in ("psnr", "ssim", "iou")},
        gslrm=_reconstruction(job, Reconstruction(job.gslrm)) if job.gslrm else None,
    )
    inputs: dict[str, Path | str] = {"decision": verdict.decision, "metrics": verdict.metrics}
    inputs |= {"gslrm": Reconstruction(job.gslrm).metrics} if job.gslrm else {}
    write_provenance(job.out.parent, "report", settings, inputs)


def _reconstruction(job: ReportJob, files: Reconstruction) -> dict[str, Any]:
    """What the page says of the 3D model."""
    scores, page = ReconstructionScores.read(files.metrics), job.out
    made = "sampled" if job.experiment.gslrm.generated else "recorded"
    others = [(label.format(made=made), scores.baselines[k]) for k, label in MODEL_LABELS.items() if k in scores.baselines]
    return {
        "rows": [("this model", scores.mean), *others],
        "ply": os.path.relpath(files.ply, page.parent),
        "viewer": os.path.relpath(files.viewer, page.parent),
        "turnable": files.viewer.read_text(encoding="utf-8") if files.viewer.stat().st_size < LARGEST_VIEWER else None,
        "what": scores.judges,
        "used": scores.used,
        "size": scores.size,
        "unit": scores.unit,
        "block": scores.block,
        "full": [m for m in ("full_psnr", "full_ssim", "full_lpips") if m in scores.mean],
        "images": {
            "given": inline(files.given), "turntable": inline(files.turntable), "strip": inline(files.strip),
            "renders": inline(files.renders),
        },
    }  # fmt: skip
