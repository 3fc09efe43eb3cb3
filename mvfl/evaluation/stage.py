"""Stage `evaluate`: draw views for validation samples, score them, decide, write numbers and pictures."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mvfl.base.record import read_record
from mvfl.config.schema import Case, Drawing, Evaluation
from mvfl.data.samples import Manifest, evenly, read_manifest
from mvfl.evaluation.consistency import Consistency, view_consistency
from mvfl.evaluation.decision import MEANING, DecisionRecord, Measurements, decide
from mvfl.evaluation.lpips import load_lpips
from mvfl.evaluation.pictures import save_grid, save_loss_curve
from mvfl.evaluation.scoring import METRICS, Truth, baselines, copy_score, draw_views, load_truth, score_views, slot_assignment
from mvfl.evaluation.trend import loss_trend
from mvfl.mvdiffusion.pipeline import MultiViewPipeline
from mvfl.mvdiffusion.training import load_prompts
from mvfl.mvdiffusion.unet import load_unet
from mvfl.runtime.devices import device
from mvfl.runtime.files import InputError, read_json, write_json
from mvfl.runtime.provenance import write_provenance
from mvfl.runtime.tracking import read_log

PERFECT = {"psnr": 40.0, "ssim": 1.0, "iou": 1.0}


@dataclass(frozen=True)
class EvaluationPaths:
    """Inputs and output of an evaluation.

    Attributes:
        manifest: data set.
        base: `base.json`.
        checkpoint: exported `checkpoint-<step>` folder.
        prompts: `clr_embeds.pt`.
        log: JSONL log of the training.
        out: output folder.
    """

    manifest: Path
    base: Path
    checkpoint: Path
    prompts: Path
    log: Path
    out: Path


def load_finetuned(base: Path, checkpoint: Path, rig_hash: str) -> MultiViewPipeline:
    """The base's pipeline with the UNet of a checkpoint, on the device to use.

    Raises:
        InputError: the checkpoint is missing, was trained on another rig, or equals the base (its weights did not load).
    """
    record = read_record(base)
    trained_on = read_json(checkpoint / "provenance.json", "run the `train` target first")["rig_hash"]
    if trained_on != rig_hash:
        raise InputError(
            f"{checkpoint} was trained on rig {trained_on}, the data set has rig {rig_hash}: slot i would be drawn for one "
            "camera and used with another. Train on this data set."
        )
    unet = load_unet(checkpoint / "unet")
    pipeline = MultiViewPipeline.from_pretrained(record.pipeline)
    same = pipeline.unet.conv_in.weight.shape == unet.conv_in.weight.shape and all(
        torch.equal(a, b) for a, b in zip(pipeline.unet.parameters(), unet.parameters(), strict=False)
    )
    if same:
        raise InputError(f"The weights in {checkpoint} equal the base's: nothing was trained, or the wrong file was saved.")
    pipeline.unet = unet
    return pipeline.to(device())


def evaluation_pairs(manifest: Manifest, experiment: Drawing, settings: Evaluation) -> list[tuple[str, int]]:
    """(sample, reference view) pairs to score."""
    names = evenly(manifest.val, settings.samples)
    if experiment.reference != "random":
        return [(n, experiment.reference) for n in names]
    if settings.references == "first":
        return [(n, 0) for n in names]
    return [(n, r) for n in names for r in range(manifest.views)]


def skill(scores: dict[str, Float[Tensor, "pair slot"]], others: dict[str, dict[str, Tensor]], mask: Tensor) -> dict[str, float]:
    """(metric - best baseline) / (perfect - best baseline) per metric, over the slots in `mask`."""
    out = {}
    for metric in METRICS:
        best = max(float(table[metric][mask].mean()) for table in others.values())
        out[metric] = (float(scores[metric][mask].mean()) - best) / (PERFECT[metric] - best)
    return out


def consistency_per_pair(images: Float[Tensor, "pair slot 3 height width"], truth: Truth) -> list[Consistency]:
    """Consistency of each pair's views as one body; the recorded input stands in its own slot."""
    out = []
    for i, (views, slot) in enumerate(zip(truth.views, truth.reference_slots, strict=True)):
        shown = images[i].clone()
        shown[slot] = truth.images[i, slot]
        out.append(view_consistency(shown, [truth.rig.cameras[v] for v in views]))
    return out


def measure(
    images: Float[Tensor, "pair slot 3 height width"],
    truth: Truth,
    others: dict[str, Float[Tensor, "pair slot 3 height width"]],
    loss_state: str,
    recorded: list[Consistency] | None = None,
) -> tuple[Measurements, dict[str, Any]]:
    """All measurements of a prediction set, and the tables for `metrics.json`.

    Args:
        images: predictions in slot order.
        truth: recorded pictures.
        others: baseline pictures by name.
        loss_state: from the loss trend.
        recorded: consistency of the recorded views, where it is known already.
    """
    real = recorded or consistency_per_pair(truth.images, truth)
    drawn = consistency_per_pair(images, truth)
    relative = [(a.hull_iou / max(b.hull_iou, 1e-6), a.colour / max(b.colour, 1e-6)) for a, b in zip(drawn, real, strict=True)]
    scored = truth.scored
    scores = score_views(images, truth)
    tables = {name: score_views(pictures, truth) for name, pictures in others.items()}
    # The nearest training sample is shown, but it has seen the data set: skill is against pictures that need none of it.
    trivial: dict[str, dict[str, Tensor]] = {name: tables[name] for name in ("blank", "copy", "mean") if name in tables}
    right = slot_assignment(images, truth)
    copied = copy_score(images, truth)
    slots: dict[str, dict[str, float]] = {}
    for slot in range(images.shape[1]):
        mask = torch.zeros_like(scored)
        mask[:, slot] = scored[:, slot]
        if not mask.any():
            continue
        values = {metric: float(scores[metric][mask].mean()) for metric in METRICS}
        gains = skill(scores, trivial, mask)
        slots[str(slot)] = {
            **values,
            "slot_accuracy": float(right[mask].float().mean()),
            "copy_score": float(copied[mask].mean()),
            "skill": sum(gains.values()) / len(gains),
        }
    gains = skill(scores, trivial, scored)
    measurements = Measurements(
        slot_accuracy=float(right[scored].float().mean()),
        copy_score=float(copied[scored].mean()),
        iou=float(scores["iou"][scored].mean()),
        skill=sum(gains.values()) / len(gains),
        consistency=sum(r[0] for r in relative) / len(relative),
        slots=slots,
        loss_state=loss_state,
    )
    per_reference = {}
    for reference in sorted(set(truth.references)):
        rows = torch.tensor([r == reference for r in truth.references])
        mask = scored & rows[:, None]
        per_reference[str(reference)] = {m: float(scores[m][mask].mean()) for m in METRICS} | {
            "slot_accuracy": float(right[mask].float().mean())
        }
    detail = {
        "model": {m: float(scores[m][scored].mean()) for m in METRICS},
        "baselines": {n: {m: float(t[m][scored].mean()) for m in METRICS} for n, t in tables.items()},
        "baselines_per_slot": {
            n: {s: {m: float(t[m][:, int(s)][scored[:, int(s)]].mean()) for m in METRICS} for s in slots} for n, t in tables.items()
        },
        "skill": gains,
        "hull_iou_per_slot": [sum(c) / len(c) for c in zip(*(d.hull_iou_per_view for d in drawn), strict=True)],
        "colour_consistency": sum(r[1] for r in relative) / len(relative),
        "per_reference": per_reference,
    }
    return measurements, detail


def evaluate_checkpoint(
    experiment_name: str,
    experiment: Drawing,
    step: int,
    settings: Evaluation,
    override: Case | None,
    paths: EvaluationPaths,
) -> None:
    """Judge one checkpoint; writes `metrics.json`, `decision.json`, `views.png`, `loss.png` and `provenance.json`.

    Args:
        experiment_name: for the record.
        experiment: settings.
        step: optimiser step of the checkpoint.
        settings: samples and thresholds.
        override: a person's decision, recorded beside the computed one.
        paths: inputs and output.
    """
    manifest = read_manifest(paths.manifest)
    pipeline = load_finetuned(paths.base, paths.checkpoint, manifest.rig.hash)
    pairs = evaluation_pairs(manifest, experiment, settings)
    truth = load_truth(manifest, pairs, experiment.view_conditioning)
    number = {name: i for i, name in enumerate(manifest.val)}
    seeds = [(settings.seed, number[n], r) for n, r in pairs]
    images = draw_views(
        pipeline, truth.inputs, truth.references, seeds, manifest, experiment.view_conditioning,
        load_prompts(paths.prompts, pipeline.unet), experiment.sampling,
    )  # fmt: skip
    log = [row for row in read_log(paths.log) if row["step"] <= step]
    trend = loss_trend(log)
    others = baselines(manifest, truth, experiment.view_conditioning)
    measurements, detail = measure(images, truth, others, trend.state)
    if settings.lpips is not None:
        lpips = load_lpips(settings.lpips.backbone, settings.lpips.heads)
        detail["lpips"] = {
            name: float(
                torch.cat([lpips(p, t) for p, t in zip(pictures, truth.images, strict=True)])
                .view(truth.scored.shape)[truth.scored]
                .mean()
            )
            for name, pictures in {"model": images, **others}.items()
        }
    decision = decide(measurements, settings.thresholds)
    case = override or decision.case
    paths.out.mkdir(parents=True, exist_ok=True)
    write_json(
        paths.out / "metrics.json",
        {
            "experiment": experiment_name, "step": step, "pairs": len(pairs), "measurements": asdict(measurements),
            **detail, "loss_trend": trend.to_json(),
        },
    )  # fmt: skip
    rows = []
    for i in range(0, len(pairs), max(1, len(pairs) // 4)):
        label = f"{pairs[i][0][-4:]} ref {pairs[i][1]}"
        rows += [(f"recorded {label}", truth.images[i]), (f"drawn {label}", images[i])]
    rolled = set(truth.reference_slots) == {0}  # the published order has its input in the slot of its camera
    save_grid(
        paths.out / "views.png", rows[:8], [f"slot {s}" + (" (input)" if rolled and s == 0 else "") for s in range(manifest.views)]
    )
    save_loss_curve(paths.out / "loss.png", log, [step])
    inputs: dict[str, Path | str] = {
        "checkpoint": paths.checkpoint / "provenance.json",
        "manifest": paths.manifest,
        "base": paths.base,
        "prompts": paths.prompts,
    }
    judged = {"evaluation": settings.model_dump(mode="json"), "drawing": experiment.model_dump(mode="json"), "override": override}
    write_provenance(paths.out, "evaluate", judged, inputs, manifest.rig.hash)
    record = DecisionRecord(
        experiment=experiment_name,
        step=step,
        case=case,
        meaning=MEANING[case],
        overridden=override is not None and override != decision.case,
        override=override,
        computed=decision.record(),
        loss=trend.last,
        loss_state=trend.state,
        reached=log[-1]["time"] if log else None,
    )
    write_json(paths.out / "decision.json", record.model_dump(mode="json"))
