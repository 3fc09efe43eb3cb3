"""Is a calibration's world as the settings say: upright, and in their units? Nothing later would notice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mvfl.config.datasets import MarkerlessDataset
from mvfl.data.calibration import level_direction
from mvfl.data.locating import Located
from mvfl.geometry.lens import LensCamera
from mvfl.runtime.files import InputError
from mvfl.runtime.progress import say

LEAST_UP = 0.3
TILTED = 5.0  # degrees between the world's up and what cameras without roll agree on
WITHOUT_ROLL = 3.0  # degrees; cameras that were mounted so tell where up is
SMALLEST_RIG, LARGEST_RIG = 30.0, 30_000.0  # mm between its outermost cameras
SMALLEST_ANIMAL, LARGEST_ANIMAL = 30.0, 700.0  # mm with its tail: a mouse has 60 to 200, a rat up to 450


def judge_up(settings: MarkerlessDataset, cameras: Sequence[LensCamera], located: Sequence[Located]) -> None:
    """Every later check would pass, since all would be turned alike: animals on their backs, or lying on their sides.

    Args:
        settings: names the calibration, and where up is.
        cameras: Z up as the settings say, in the calibration's units.
        located: some usable frames.

    Raises:
        InputError: the world does not stand upright.
    """
    up = float(np.mean([-c.camera.w2c[1, 2] for c in cameras]))  # how far "up" in the pictures is +Z in the world
    height = np.mean([c.camera.position[2] for c in cameras]) - np.mean([f.centre[2] for f in located])
    # Cameras mounted upside down look down on the animal all the same; from above, "up" in the picture says nothing.
    looking_down = height > 0.5 * np.mean([np.linalg.norm(c.camera.position - located[0].centre) for c in cameras])
    if up < LEAST_UP and not (up < -LEAST_UP and height > 0) and not looking_down:
        raise InputError(
            f"In {settings.calibration} the world's Z axis does not point up: in the pictures, up is {up:+.2f} of it (about +0.9 "
            "is usual). Say where up is in datasets.<name>.up (loose pictures: --up): '-z' (a chessboard on the floor), '-y' or "
            "'y', a vector, {level_camera: NAME}, or {floor: [three points]}."
        )
    level = level_direction(cameras)
    rolls = [abs(np.degrees(np.arcsin(np.clip(c.camera.w2c[0, :3] @ level, -1, 1)))) for c in cameras]
    tilt = float(np.degrees(np.arccos(np.clip(level[2], -1, 1))))
    if len(cameras) > 2 and max(rolls) < WITHOUT_ROLL and tilt > TILTED:
        say(
            f"Warning: all cameras agree on an up that is {tilt:.1f} degrees away from datasets.<name>.up. Is the world tilted? In "
            f"the calibration's world turned so far, up would be {np.round(level, 3).tolist()}."
        )


def judge_unit(settings: MarkerlessDataset, cameras: Sequence[LensCamera], located: Sequence[Located]) -> None:
    """Say it when rig or animal are of no usual size: figures in millimetres would be wrong.

    Args:
        settings: `unit_mm`.
        cameras: in the calibration's units.
        located: some usable frames.
    """
    places = np.stack([c.camera.position for c in cameras])
    apart = float(np.linalg.norm(places[:, None] - places, axis=-1).max()) * settings.unit_mm
    seen = [2 * np.array(f.extents) * np.linalg.norm(places - f.centre, axis=1) for f in located]
    animal = float(np.median(seen)) * settings.unit_mm
    rig_fits, animal_fits = SMALLEST_RIG < apart < LARGEST_RIG, SMALLEST_ANIMAL < animal < LARGEST_ANIMAL
    if not (rig_fits and animal_fits):
        say(
            f"Warning: by unit_mm {settings.unit_mm:g} the cameras stand up to {apart:.3g} mm apart and the animal is "
            f"{animal:.3g} mm large. If the calibration is in centimetres, set unit_mm: 10, in metres 1000; lengths in mm are "
            "wrong otherwise."
        )
