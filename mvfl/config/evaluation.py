"""Settings of the verdict and of tracking."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt

from mvfl.config.strict import Fraction, Strict, UserPath


def above_chance(limit: float, views: int) -> float:
    """A limit of slot accuracy for another number of views than six, as far between chance (1/views) and all right.

    Args:
        limit: for six views.
        views: of an object.
    """
    return round(1 - (1 - limit) * (1 - 1 / views) / (1 - 1 / 6), 9)  # a limit of six views stays what it is, to the bit


class Thresholds(Strict):
    """Limits of the A-D decision, compared with means over samples and reference views.

    Fitted on labelled prediction sets by `mvfl benchmark decision`; see docs/decisions.md.
    """

    min_slot_accuracy: Fraction = Field(0.7, description="share of predictions nearest to their own slot's picture")
    failed_slot_accuracy: Fraction = Field(
        0.3, description="at or below: the views are in the wrong places (C); for six views, others as far above their chance"
    )
    max_copy_score: Fraction = Field(0.3, description="above: the slots repeat the input (C)")
    min_skill: float = Field(0.1, description="(metric - best baseline) / (perfect - best baseline), mean of metrics")
    failed_skill: float = Field(-0.5, description="at or below: worse than trivial pictures (C)")
    min_iou: Fraction = Field(0.65, description="foreground overlap with the recorded views")
    min_consistency: Fraction = Field(0.7, description="silhouettes as one body, relative to the recorded views")
    partial_good_slots: Fraction = Field(0.3, description="share of good slots from which on a run is partial (D), not C")
    min_good_slots: Fraction = Field(0.99, description="share of slots that must pass for A")


class LpipsFiles(Strict):
    """Files for LPIPS; they are not shipped."""

    backbone: UserPath = Field(description="torchvision's VGG-16 weights (.pth or .safetensors)")
    heads: UserPath = Field(description="LPIPS' linear layers for VGG (vgg.pth of the lpips package)")


class Scoring(Strict):
    """What the stage `score` reads: which pictures are sampled and compared."""

    samples: PositiveInt = Field(20, description="validation samples, each with every reference view")
    references: Literal["first", "all", "in_turn"] = Field("all", description="in_turn: sample i with view i as its input")
    lpips: LpipsFiles | None = Field(None, description="adds LPIPS to metrics.json; decides nothing")
    seed: int = Field(7, ge=0)


class Evaluation(Scoring):
    """The verdict."""

    step: PositiveInt = Field(2000, description="optimiser step at which the checkpoint is judged")
    thresholds: Thresholds = Thresholds()


class Wandb(Strict):
    """Weights & Biases."""

    project: str = "mouse_facelift"
    entity: str | None = None
    mode: Literal["auto", "online", "offline", "disabled"] = Field("auto", description="auto: online with a key")
