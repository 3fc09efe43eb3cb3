"""From predictions and recorded pictures to the numbers that the verdict is based on."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mvfl.metrics.colour import colour_drift
from mvfl.metrics.consistency import view_consistency
from mvfl.records.scores import Measurements
from mvfl.verdict.scores import METRICS, Truth, copy_score, score_views, share, slot_assignment

PERFECT = {"psnr": 40.0, "ssim": 1.0, "iou": 1.0}
Views = Float[Tensor, "pair slot 3 height width"]
Scores = dict[str, Float[Tensor, "pair slot"]]
# The nearest training sample is shown too, but it has seen the data set: skill is against pictures that need none of it.
TRIVIAL = ("blank", "copy", "mean")


def skill(scores: Scores, others: dict[str, Scores], mask: Bool[Tensor, "pair slot"]) -> dict[str, float]:
    """(metric - best baseline) / (perfect - best baseline) per metric, over the slots in `mask`."""
    out = {}
    for metric in METRICS:
        best = max(float(table[metric][mask].mean()) for table in others.values())
        out[metric] = (float(scores[metric][mask].mean()) - best) / (PERFECT[metric] - best)
    return out


def consistency_per_pair(images: Views, truth: Truth) -> list[float]:
    """Consistency of each pair's views as one body; the recorded input stands in its own slot."""
    out = []
    for i, (views, slot) in enumerate(zip(truth.views, truth.reference_slots, strict=True)):
        shown = images[i].clone()
        shown[slot] = truth.images[i, slot]
        out.append(view_consistency(shown, [truth.cameras[i][v] for v in views]))
    return out


def relative(value: float, recorded: float) -> float:
    """A figure relative to that of the recorded views, at most 1; 0 where the recorded views have none to compare with."""
    return min(1.0, value / recorded) if recorded > 0 else 0.0


def measure(
    images: Views, truth: Truth, others: dict[str, Views], loss_state: str, recorded: list[float] | None = None
) -> tuple[Measurements, dict[str, Any]]:
    """All measurements of a prediction set, and the tables beside them in `metrics.json`.

    Args:
        images: predictions in slot order, RGB in 0..1.
        truth: recorded pictures.
        others: baseline pictures by name.
        loss_state: from the loss trend.
        recorded: consistency of the recorded views, where it is known already.
    """
    real = recorded or consistency_per_pair(truth.images, truth)
    sampled = consistency_per_pair(images, truth)
    agreement = [relative(a, b) for a, b in zip(sampled, real, strict=True)]
    scored, scores = truth.scored, score_views(images, truth)
    tables = {name: score_views(pictures, truth) for name, pictures in others.items()}
    trivial = {name: tables[name] for name in TRIVIAL if name in tables}
    right, copied = slot_assignment(images, truth), copy_score(images, truth)
    slots = _per_slot(scores, trivial, right, copied, scored)
    gains = skill(scores, trivial, scored)
    measurements = Measurements(
        slot_accuracy=share(right, scored),
        copy_score=float(copied[scored].mean()),
        iou=float(scores["iou"][scored].mean()),
        skill=sum(gains.values()) / len(gains),
        consistency=sum(agreement) / len(agreement),
        slots=slots,
        loss_state=loss_state,
        views=scored.shape[1],
    )
    mean = lambda table, mask: {m: float(table[m][mask].mean()) for m in METRICS}  # noqa: E731
    detail = {
        "model": mean(scores, scored),
        "baselines": {name: mean(table, scored) for name, table in tables.items()},
        "baselines_per_slot": {name: {s: mean(table, _only_slot(scored, int(s))) for s in slots} for name, table in tables.items()},
        "skill": gains,
        "colour_drift": colour_drift(images[scored], truth.images[scored], truth.alphas[scored]),
    }
    return measurements, detail


def _only_slot(scored: Bool[Tensor, "pair slot"], slot: int) -> Bool[Tensor, "pair slot"]:
    mask = torch.zeros_like(scored)
    mask[:, slot] = scored[:, slot]
    return mask


def _per_slot(
    scores: Scores, trivial: dict[str, Scores], right: Tensor, copied: Tensor, scored: Bool[Tensor, "pair slot"]
) -> dict[str, dict[str, float]]:
    """Metrics, slot accuracy, copy score and skill of each slot that is scored anywhere."""
    slots: dict[str, dict[str, float]] = {}
    for slot in range(scored.shape[1]):
        mask = _only_slot(scored, slot)
        if not mask.any():
            continue
        gains = skill(scores, trivial, mask)
        slots[str(slot)] = {
            **{metric: float(scores[metric][mask].mean()) for metric in METRICS},
            "slot_accuracy": share(right, mask),
            "copy_score": float(copied[mask].mean()),
            "skill": sum(gains.values()) / len(gains),
        }
    return slots
