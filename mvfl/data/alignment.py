"""Which single camera is off, and by how much: a small rotation, a focal length, a delay. From many moments together.

The centres of mass of one moment's silhouettes, less what perspective and shape do to them (`Body.leans`), should meet in a point.
How far they miss it is noise; a camera that is turned by a degree misses it in the same way in every frame, so a hundred frames
tell what one cannot.
Each camera in turn is allowed to be wrong, all others are held right, and the points are free: linear least squares about the
triangulated points (bundle adjustment with one free camera). The one whose freedom explains most of the misses is named.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from mvfl.geometry.cameras import Camera
from mvfl.geometry.virtual import triangulate

FEWEST = 30  # moments; fewer tell nothing about a degree
LEAST_WAY = 0.5  # of the animal's size: one that sits still shows the same misses of its shape in every frame
LARGEST_TURN = 15.0  # degrees; what is larger is no small rotation
NAMED_DEGREES, NAMED_FOCAL, NAMED_DELAY = 0.4, 0.04, 0.5
EXPLAINED = 0.04  # of the squared misses
AHEAD = 1.15  # times what the next camera explains
SURE = 12.0  # F statistic: mean square explained over mean square left


@dataclass(frozen=True)
class Misfit:
    """What one camera's freedom would mend.

    Attributes:
        view: index of the camera.
        degrees: of the small rotation.
        focal: relative error of the focal length.
        delay: frames by which its pictures are late.
        explained: share of the squared misses of all cameras.
        residual: root mean square miss of this camera, in pixels.
        kind: rotation, focal or delay: what explains most; None where it is nothing to speak of.
    """

    view: int
    degrees: float
    focal: float
    delay: float
    explained: float
    residual: float
    kind: str | None

    def sentence(self, name: str) -> str:
        """For people."""
        what = {
            "rotation": f"is turned by {self.degrees:.1f} degrees",
            "focal": f"has a focal length that is wrong by {self.focal:+.0%}",
            "delay": f"is {abs(self.delay):.1f} frames {'late' if self.delay > 0 else 'early'}",
        }
        return f"camera {name} {what[self.kind or 'rotation']} against the others"

    def to_json(self) -> dict[str, Any]:
        """For `recording.json`."""
        return {k: v for k, v in vars(self).items() if k != "view"}


def camera_misfits(
    pixels: Float[np.ndarray, "moment view 2"], cameras: Sequence[Camera], frames: Sequence[int], sizes: Float[np.ndarray, " view"]
) -> list[Misfit]:
    """Fit each camera's error against all others.

    Args:
        pixels: centres of mass less `Body.leans`, lens undone.
        cameras: pinholes, in one world.
        frames: numbers of the moments, rising.
        sizes: square root of the animal's area in each picture, median over the moments.

    Returns:
        One entry per camera; at most one of them with a `kind`. Nothing where there are too few moments, or where the animal
        hardly moves.
    """
    if len(pixels) < FEWEST:
        return []
    points = np.array([triangulate(cameras, p)[0] for p in pixels])
    animal = float(np.median([s * c.project(points)[:, 2].mean() / c.fx for s, c in zip(sizes, cameras, strict=True)]))
    if float(np.linalg.norm(points.std(0))) < LEAST_WAY * animal:
        return []
    seen = np.stack([c.project(points)[:, :2] for c in cameras], 1)
    focal = np.array([c.fx for c in cameras])[None, :, None]
    misses = (pixels - seen) / focal  # angles, so that lenses can be compared
    across = np.stack([_point_columns(c, points) for c in cameras], 1)  # [moment, view, 2, 3]
    moments, views = misses.shape[:2]
    flat = across.reshape(moments, 2 * views, 3)
    free = np.eye(2 * views) - flat @ np.linalg.pinv(flat)  # what moving the point cannot mend
    rest = np.einsum("mij,mj->mi", free, misses.reshape(moments, -1))
    speed = _velocities(points, frames)
    total = float(np.square(rest).sum())
    fits = []
    for view, camera in enumerate(cameras):
        columns = _error_columns(camera, points, speed)  # [moment, 2, 5]
        freed = np.einsum("mij,mjp->mip", free[:, :, 2 * view : 2 * view + 2], columns).reshape(-1, 5)
        fits.append(_fit(view, freed, rest.ravel(), total, float(np.sqrt(np.square(misses[:, view] * camera.fx).sum(-1).mean()))))
    return _named(fits)


def _point_columns(camera: Camera, points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 2 3"]:
    """How x/z and y/z change with the point."""
    x, y, z = (points @ camera.w2c[:3, :3].T + camera.w2c[:3, 3]).T
    zero = np.zeros_like(z)
    inner = np.stack([np.stack([1 / z, zero, -x / z**2], 1), np.stack([zero, 1 / z, -y / z**2], 1)], 1)
    return inner @ camera.w2c[:3, :3]


def _error_columns(camera: Camera, points: Float[np.ndarray, "n 3"], speed: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 2 5"]:
    """How x/z and y/z change with a rotation about the camera's axes, the logarithm of the focal length, and a delay."""
    x, y, z = (points @ camera.w2c[:3, :3].T + camera.w2c[:3, 3]).T
    x, y, one = x / z, y / z, np.ones_like(z)
    late = -np.einsum("nij,nj->ni", _point_columns(camera, points), speed)
    across = np.stack([-x * y, 1 + x * x, -y, x, late[:, 0]], 1)
    down = np.stack([-(one + y * y), x * y, x, y, late[:, 1]], 1)
    return np.stack([across, down], 1)


def _velocities(points: Float[np.ndarray, "n 3"], frames: Sequence[int]) -> Float[np.ndarray, "n 3"]:
    """World units per frame, from the moments before and after; 0 where they are far away in time."""
    number = np.asarray(frames, float)
    out = np.zeros_like(points)
    gap = number[2:] - number[:-2]
    near = gap <= 4 * max(1.0, float(np.median(np.diff(number))))
    out[1:-1][near] = ((points[2:] - points[:-2]) / gap[:, None])[near]
    return out


def _fit(view: int, columns: Float[np.ndarray, "n 5"], rest: Float[np.ndarray, " n"], total: float, residual: float) -> Misfit:
    """Least squares for one camera: rotation always; focal length and delay where they can be told."""
    best: tuple[float, str | None, np.ndarray] = (0.0, None, np.zeros(5))
    kind: str | None
    for kind, chosen in (("rotation", [0, 1, 2]), ("focal", [3]), ("delay", [4])):
        part = columns[:, chosen]
        if np.square(part).sum() < 1e-12 * len(part) or np.linalg.matrix_rank(part, tol=1e-6 * np.sqrt(len(part))) < len(chosen):
            continue
        values, *_ = np.linalg.lstsq(part, rest, rcond=None)
        left = float(np.square(rest - part @ values).sum())
        gain = 1 - left / total
        ratio = (gain / len(chosen)) / max(1e-12, (1 - gain) / max(1, len(rest) - len(chosen)))  # F statistic
        if ratio >= SURE and gain > best[0]:
            whole = np.zeros(5)
            whole[chosen] = values
            best = (gain, kind, whole)
    gain, kind, values = best
    return Misfit(
        view, float(np.degrees(np.linalg.norm(values[:3]))), float(np.expm1(values[3])), float(values[4]), gain, residual, kind
    )


def _named(fits: list[Misfit]) -> list[Misfit]:
    """The camera that explains most keeps its kind, if that is much, and those that explain nearly as much; no other does.

    Of three cameras, one that is turned often looks like another one turned the other way.
    """
    first = max(fits, key=lambda f: f.explained)
    large = {
        "rotation": NAMED_DEGREES <= first.degrees <= LARGEST_TURN,
        "focal": abs(first.focal) >= NAMED_FOCAL,
        "delay": abs(first.delay) >= NAMED_DELAY,
    }
    told = first.kind is not None and large[first.kind] and first.explained >= EXPLAINED
    near = [f.view for f in fits if told and f.kind and f.explained * AHEAD >= first.explained]
    return [f if f.view in near else replace(f, kind=None) for f in fits]
