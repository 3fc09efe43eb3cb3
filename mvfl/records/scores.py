"""`metrics.json` of the stages `evaluate` and `gslrm`: what was measured, beside what needs no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from mvfl.config.strict import Strict
from mvfl.records.record import Record

Metrics = dict[str, float]
Block = Literal["test", "val"]  # of samples: see `Manifest`


def mean_of(rows: Sequence[Metrics]) -> Metrics:
    """Mean of every metric that the first row has."""
    return {metric: sum(row[metric] for row in rows) / len(rows) for metric in rows[0]}


@dataclass(frozen=True)
class Measurements:
    """What the verdict is based on; the reference slot is never among it.

    Attributes:
        slot_accuracy: share of predictions nearest to their own slot's picture.
        copy_score: mean likeness to the input beyond the truth's own.
        iou: mean mask IoU.
        skill: mean over metrics of (model - best baseline) / (perfect - best baseline).
        consistency: agreement of the silhouettes with one body, relative to the recorded views.
        slots: per relative slot (1, 2, ...): slot accuracy, IoU, skill.
        loss_state: from the loss trend.
        views: of an object, so that chance is 1/views.
    """

    slot_accuracy: float
    copy_score: float
    iou: float
    skill: float
    consistency: float
    slots: dict[str, Metrics]
    loss_state: str
    views: int


@dataclass(frozen=True)
class LossTrend:
    """Robust trend of the loss over the last steps.

    Attributes:
        last: median of the last tenth.
        slope_per_1000: Theil-Sen slope, relative to the median loss, per 1000 steps.
        low, high: 95 % bootstrap interval of the slope.
        oscillation: lag-one autocorrelation of the detrended loss; near 0 is noise, far below 0 jumps to and fro.
        state: `falling`, `plateau`, `rising`, `oscillating`, `broken` (NaN) or `unknown` (no log).
    """

    last: float | None
    slope_per_1000: float | None
    low: float | None
    high: float | None
    oscillation: float | None
    state: str


class ViewScores(Record):
    """Scores of a checkpoint's views.

    Attributes:
        experiment, step: what was judged.
        pairs: number of (sample, reference) pairs.
        measurements: of the verdict.
        model: mean of each metric.
        baselines: the same of pictures that need no model, by name.
        baselines_per_slot: baseline -> slot -> metrics.
        skill: per metric.
        loss_trend: of the training.
        reached: Unix time of the last training step before the verdict.
        lpips: per kind of picture, where files for it were named.
        colour_drift: how much lighter, redder, yellower the drawn animals are (`mvfl.metrics.colour.colour_drift`).
        nearest_overlap: of the outlines of a judged input and the most similar training picture, median; near 1 among moments of
            one animal that follow each other.
        directions: of each slot's camera as seen from the input's, where it is the same for every input.
    """

    remedy = "run the `evaluate` target first"

    experiment: str
    step: int
    pairs: int
    measurements: Measurements
    model: Metrics
    baselines: dict[str, Metrics]
    baselines_per_slot: dict[str, dict[str, Metrics]]
    skill: Metrics
    loss_trend: LossTrend
    reached: float | None
    lpips: Metrics | None = Field(None, description="lower is more alike")
    colour_drift: Metrics | None = None
    directions: list[str] | None = None
    nearest_overlap: float | None = None


class ReconstructionScore(Strict):
    """Scores of one validation sample's 3D model.

    Attributes:
        sample: name.
        targets: views that were scored; no input had one of their cameras.
        scores: of the weights that are used; of the base in a zero-shot test.
        others: of the other weights and of pictures that need no model.
    """

    sample: str
    targets: list[int]
    scores: Metrics
    others: dict[str, Metrics]


class ReconstructionScores(Record):
    """Scores of GS-LRM: means, and each sample.

    Attributes:
        mean: of the weights that are used.
        baselines: of the other weights (`base`, or `finetuned` where the base is used) and of pictures that need no model.
        samples: each validation sample.
        used: which weights are written and used: the fine-tuned ones only where they beat the base.
        size: length, width and height of the model that is shown.
        unit: of them.
        block: of the samples: `test`, which nothing was chosen by, or `val` where the data set has no test block.
    """

    remedy = "run the `gslrm` target first"

    mean: Metrics
    baselines: dict[str, Metrics]
    samples: list[ReconstructionScore]
    used: Literal["finetuned", "base"] = "finetuned"
    block: Block = "val"
    size: list[float] | None = None
    unit: Literal["mm", "world units"] = "world units"

    def per_target(self) -> dict[str, dict[str, Metrics]]:
        """Scores by the set of views that was scored: each kind of picture's means."""
        out: dict[str, dict[str, Metrics]] = {}
        for key in sorted({tuple(row.targets) for row in self.samples}):
            rows = [row for row in self.samples if tuple(row.targets) == key]
            tables = [{"model": row.scores, **row.others} for row in rows]
            out[", ".join(map(str, key))] = {kind: mean_of([t[kind] for t in tables]) for kind in tables[0]}
        return out

    @property
    def judges(self) -> str:
        """Which cameras judged, for people."""
        sets = {tuple(row.targets) for row in self.samples}
        if all(len(views) == 1 for views in sets) and len(sets) > 1:
            return "cameras that no input had, each left out in turn"
        return "cameras that no input had"
