"""`collapsed.json`: a training was ended because its views repeat the input or stand in wrong slots."""

from __future__ import annotations

from mvfl.config.experiment import Training
from mvfl.records.record import Record


class CollapseLimits(Record):
    """What collapse was looked for with; other limits deserve another look."""

    steps: list[int]
    copy_score: float
    slot_accuracy: float

    @classmethod
    def of(cls, t: Training) -> CollapseLimits:
        """The limits of a training."""
        return cls(steps=list(t.watch_steps), copy_score=t.watch_copy_score, slot_accuracy=t.watch_slot_accuracy)


class CollapseNote(Record):
    """The sentence that the run ended with."""

    remedy = "delete it to train on"

    limits: CollapseLimits
    sentence: str
