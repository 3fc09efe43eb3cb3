"""Pictures of one moment by calibrated cameras, named as in the calibration: as a recording of a single frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from torch import Tensor

from mvfl.config.datasets import LevelCamera, MarkerlessDataset, Up
from mvfl.config.patterns import natural
from mvfl.data.calibration import read_calibration, upright
from mvfl.data.locating import locate_moment
from mvfl.data.mask_making import agreeing, patches
from mvfl.data.masks import clean
from mvfl.data.photos import Cut, about, read_photo, read_pixels
from mvfl.data.pictures import rgba_tensor
from mvfl.data.plausible import judge_unit, judge_up
from mvfl.data.resampling import choose_framing, turned_part
from mvfl.geometry.cameras import Camera
from mvfl.geometry.lens import LensCamera
from mvfl.runtime.files import InputError


@dataclass(frozen=True)
class Calibration:
    """Where the cameras of loose pictures stand.

    Attributes:
        file: as for recordings (docs/data.md).
        up: where up is in its world.
        unit_mm: millimetres in one of its units.
    """

    file: Path
    up: Up = "z"
    unit_mm: float = 1.0


def up_of(text: str) -> Up:
    """Where up is: an axis of the calibration's world, or the name of a camera that stands level."""
    axes: dict[str, Up] = {"x": "x", "y": "y", "z": "z", "-x": "-x", "-y": "-y", "-z": "-z"}
    return axes.get(text) or LevelCamera(level_camera=text)


@dataclass(frozen=True)
class Moment:
    """One animal as several cameras saw it.

    Attributes:
        rgba: straight alpha, as virtual cameras that look at the animal would have taken it.
        cameras: those, in the animal's world.
        millimetres: in one unit of that world.
    """

    rgba: Float[Tensor, "view 4 side side"]
    cameras: list[Camera]
    millimetres: float


def read_moment(pictures: Sequence[Path], cut: Cut, calibration: Calibration, size: int) -> Moment:
    """Find the animal in space and bring its pictures to the form that the models know.

    Args:
        pictures: one per camera, called as the camera is in the calibration: side.png.
        cut: how the animal is cut out of each.
        calibration: of the cameras.
        size: pixels per side of the results.

    Raises:
        InputError: a picture is damaged or its camera is not in the calibration, or pictures and cameras do not belong together.
        CameraError: an impossible calibration.
    """
    if len(pictures) < 2:
        raise InputError("--calibration takes two or more pictures of one moment, each called as its camera, as side.png.")
    pictures = sorted(pictures, key=lambda picture: natural(picture.stem))  # the order of a calibration without names
    names = [picture.stem for picture in pictures]
    photos = [read_pixels(picture) for picture in pictures]
    sizes = [(photo.shape[1], photo.shape[0]) for photo in photos]
    cameras = upright(read_calibration(calibration.file, names, sizes, every_camera=False), calibration.up)
    photos = _looked_for(photos, cameras, cut) if cut.auto else [_bytes(read_photo(picture, cut)) for picture in pictures]
    settings = MarkerlessDataset(
        kind="markerless", calibration=calibration.file, videos="{camera}", image_size=size, unit_mm=calibration.unit_mm
    )
    found = locate_moment(settings, 0, [clean(photo[..., 3]) for photo in photos], cameras)
    if isinstance(found, str):
        raise InputError(f"{', '.join(names)} do not show one animal where {calibration.file} has their cameras: {found}.")
    judge_up(settings, cameras, [found])
    judge_unit(settings, cameras, [found])
    framing = choose_framing(settings, cameras, [found])
    pairs = [framing.virtual(camera, view, found.centre) for view, camera in enumerate(cameras)]
    turned = [turned_part(p[..., :3], s, *pair) for p, s, pair in zip(photos, found.silhouettes, pairs, strict=True)]
    return Moment(rgba_tensor(turned), [virtual for _, virtual in pairs], calibration.unit_mm / framing.scale)


def _looked_for(photos: Sequence[np.ndarray], cameras: Sequence[LensCamera], cut: Cut) -> list[np.ndarray]:
    """The pictures with masks of what all cameras see in one place."""
    rgb = [np.ascontiguousarray(photo[..., :3]) for photo in photos]
    agreed = agreeing([patches(picture, None) for picture in rgb], cameras)
    if agreed is None:
        raise InputError("Nothing stands out in the same place of all pictures; cut the animal out of them.")
    return [np.dstack([picture, about(picture, patch.mask, cut)]) for picture, patch in zip(rgb, agreed, strict=True)]


def _bytes(rgba: Float[Tensor, "4 height width"]) -> np.ndarray:
    return np.ascontiguousarray((255 * rgba).round().byte().permute(1, 2, 0).numpy())
