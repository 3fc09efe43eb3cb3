"""`model.json`: what one reconstruction measured."""

from __future__ import annotations

from typing import Literal

from mvfl.records.record import Record


class ModelRecord(Record):
    """Figures of one 3D model.

    Attributes:
        name: of the picture or sample.
        gaussians: number of them.
        agreement: overlap (IoU) of the model's outline with the photographed one.
        length, width, height: of the box around the animal, along its horizontal main axis, across it, and upwards.
        unit: of the lengths; world units where the cameras tell no scale.
    """

    remedy = "delete its folder and run `mvfl reconstruct` again"

    name: str
    gaussians: int
    agreement: float
    length: float
    width: float
    height: float
    unit: Literal["mm", "world units"]
