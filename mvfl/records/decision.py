"""`decision.json`: which case a checkpoint is, why, and what a person made of it."""

from __future__ import annotations

from pydantic import Field

from mvfl.config.strict import Case, Strict
from mvfl.records.record import Record


class Crossed(Strict):
    """A threshold on whose wrong side a measurement lies."""

    threshold: str
    limit: float
    value: float
    slot: str | None = None


class Decision(Strict):
    """What the measurements say.

    Attributes:
        case: A, B, C or D.
        meaning: what it means and what comes next.
        reasons: sentences.
        good_slots: slots that pass.
        view_consistency, gt_similarity: scores 1-5.
        thresholds: the limits.
        crossed: limits on whose wrong side a measurement lies.
    """

    case: Case
    meaning: str
    reasons: list[str]
    good_slots: list[str]
    view_consistency: int = Field(ge=1, le=5)
    gt_similarity: int = Field(ge=1, le=5)
    thresholds: dict[str, float]
    crossed: list[Crossed]


class DecisionRecord(Record):
    """What the workflow follows, beside what was computed."""

    remedy = "run the `evaluate` target first"

    experiment: str
    step: int
    case: Case = Field(description="what the workflow follows")
    meaning: str
    overridden: bool = Field(description="a person's decision differs from the computed one")
    override: Case | None
    computed: Decision
    loss: float | None
    loss_state: str
    reached: float | None = Field(description="Unix time of the last training step before the verdict")
