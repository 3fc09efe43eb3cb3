"""Stage `report`: one page per experiment, a single HTML file that opens from disk."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from mvfl.config.schema import Experiment
from mvfl.runtime.files import read_json, write_text
from mvfl.runtime.provenance import write_provenance

LABELS = {
    "model": "this model", "nearest": "nearest training sample", "mean": "mean view", "copy": "copy of the input",
    "blank": "blank picture",
}  # fmt: skip

MODEL_LABELS = {
    "base": "the base without fine-tuning", "copy": "the drawn view of the nearest camera", "mean": "mean of the drawn views",
    "blank": "blank picture",
}  # fmt: skip


def _inline(path: Path) -> str:
    kind = "gif" if path.suffix == ".gif" else "png"
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def render_page(name: str, experiment: Experiment, decision_file: Path, gslrm_folder: Path | None, out: Path) -> None:
    """Write the page.

    Args:
        name: of the experiment.
        experiment: settings.
        decision_file: `decision.json`; its siblings hold metrics, pictures and provenance.
        gslrm_folder: output of the GS-LRM stage, where there is one.
        out: HTML file.
    """
    folder = decision_file.parent
    decision = read_json(decision_file, "run the `evaluate` target first")
    metrics = read_json(folder / "metrics.json", "run the `evaluate` target first")
    images = {"views": _inline(folder / "views.png"), "loss": _inline(folder / "loss.png")}
    gslrm = None
    if gslrm_folder is not None:
        scores = read_json(gslrm_folder / "metrics.json", "run the `gslrm` target first")
        held_out = all(row["held_out_cameras"] for row in scores["samples"])
        gslrm = {
            "rows": [("this model", scores["mean"])] + [(label, scores["baselines"][key]) for key, label in MODEL_LABELS.items()],
            "ply": os.path.relpath(gslrm_folder / "gaussians.ply", out.parent),
            "what": "cameras that no input had" if held_out else "the rig's other cameras",
        }
        images |= {k: _inline(gslrm_folder / f) for k, f in
                   {"turntable": "turntable.gif", "strip": "turntable.png", "renders": "renders.png"}.items()}  # fmt: skip
    table = {"model": metrics["model"], **metrics["baselines"]}
    environment = Environment(loader=PackageLoader("mvfl.evaluation"), autoescape=True, undefined=StrictUndefined)
    text = environment.get_template("page.html.j2").render(
        name=name,
        decision=decision,
        metrics=metrics,
        settings=experiment.model_dump(mode="json"),
        settings_text=yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False),
        thresholds_text=yaml.safe_dump(decision["computed"]["thresholds"], sort_keys=False),
        provenance=read_json(folder / "provenance.json", "run the `evaluate` target first"),
        images=images,
        slots=[
            (slot, own, max(metrics["baselines_per_slot"][k][slot]["psnr"] for k in ("blank", "copy", "mean")))
            for slot, own in metrics["measurements"]["slots"].items()
        ],
        rows=[(label, table[key]) for key, label in LABELS.items() if key in table],
        best={m: max(row[m] for row in table.values()) for m in ("psnr", "ssim", "iou")},
        gslrm=gslrm,
    )
    write_text(out, text)
    inputs: dict[str, Path | str] = {"decision": decision_file, "metrics": folder / "metrics.json"}
    inputs |= {"gslrm": gslrm_folder / "metrics.json"} if gslrm_folder else {}
    write_provenance(out.parent, "report", experiment.model_dump(mode="json"), inputs)
