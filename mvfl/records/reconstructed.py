"""`model.json`: what one reconstruction measured; and which models one job made."""

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
        volume, surface: of the closed body, in cubes and squares of the unit.
        unit: of the lengths; world units where the cameras tell no scale.
        elevation: of the camera, where several were tried: that whose model shows the photographed outline best.
        elevation_margin: by how much its agreement exceeds the second best's.
        embedding: of shape and posture, whatever place, heading and size (`mvfl.gslrm.body.spectrum`).
    """

    remedy = "delete its folder and run `mvfl reconstruct` again"

    name: str
    gaussians: int
    agreement: float
    length: float
    width: float
    height: float
    volume: float
    surface: float
    unit: Literal["mm", "world units"]
    elevation: float | None = None
    elevation_margin: float | None = None
    embedding: list[float]


class ModelsList(Record):
    """One job's share of the models of a data set.

    Attributes:
        names: of their folders, in order.
        left_out: samples of which there is none, and why.
    """

    remedy = "run again with --forcerun reconstruct_samples"

    names: list[str]
    left_out: list[str]
