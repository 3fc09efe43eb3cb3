"""`mvfl.json`: how the views of a saved model are told and sampled, beside its weights in the published layout."""

from __future__ import annotations

from typing import Any

from mvfl.config.experiment import ViewSampling
from mvfl.records.record import Record


class Published(Record):
    """What the weights alone do not tell.

    Attributes:
        choice: which view may be the input, how slots are told theirs, how views are sampled.
        rig: cameras that a picture without its own is taken to belong to.
        input_views: most views that GS-LRM is given.
        size_ratio: sqrt(animal's pixels / all pixels) of the training pictures, median.
        clip_xyz: whether GS-LRM's pixel Gaussians are clamped to [-1, 1].
        centre: column and row of the animal in them, as shares of the side, median.
        fit_steps: steps in which Gaussians are fitted to the pictures they are made of.
    """

    remedy = "save the model again with `mvfl base save`"

    choice: ViewSampling
    rig: dict[str, Any]
    input_views: int | None
    size_ratio: float
    centre: tuple[float, float]
    clip_xyz: bool = False
    fit_steps: int = 0
