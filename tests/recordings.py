"""Silhouettes of a rendered animal that walks before real-looking cameras: what the checks of recordings are tried on."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import cv2
import numpy as np

from mvfl.data.evidence import Moment
from mvfl.data.locating import Located, framing_centre, pack
from mvfl.data.rodent.sampling import make_sample
from mvfl.data.silhouettes import Silhouette, carve_body, triangulated_centre
from mvfl.geometry.cameras import Camera, orbit_camera
from mvfl.geometry.lens import LensCamera

SIDE = 176
UNITS = 145.0  # millimetres in a world unit


@dataclass(frozen=True)
class Seen:
    """A recording as the checks see it.

    Attributes:
        cameras: as calibrated.
        frames: silhouettes per frame and camera.
    """

    cameras: list[LensCamera]
    frames: list[list[Silhouette]]

    def only(self, views: list[int]) -> Seen:
        return Seen([self.cameras[v] for v in views], [[f[v] for v in views] for f in self.frames])

    def with_camera(self, view: int, camera: Camera) -> Seen:
        cameras = list(self.cameras)
        cameras[view] = replace(cameras[view], camera=camera)
        return Seen(cameras, self.frames)

    def showing(self, order: list[int]) -> Seen:
        return Seen(self.cameras, [[f[v] for v in order] for f in self.frames])

    def moments(self) -> list[Moment]:
        return [Moment(f"frame {i}", f, self.cameras) for i, f in enumerate(self.frames)]

    def located(self) -> list[Located]:
        out = []
        for number, silhouettes in enumerate(self.frames):
            body = carve_body(silhouettes, self.cameras)
            centre = framing_centre(silhouettes, self.cameras)
            error = float(triangulated_centre(silhouettes, self.cameras)[1].mean())
            ones = [1.0] * len(self.cameras)
            out.append(
                Located(number, [pack(s) for s in silhouettes], centre, error, body.overlaps.tolist(), body.leans.tolist(), ones)
            )
        return out


def place(seed: int, frame: int) -> np.ndarray:
    """Where the animal is: a smooth way of about 60 mm about the middle."""
    a, b, c = np.random.default_rng([seed, 7]).uniform(0, 6, 3)
    return np.array([0.42 * np.cos(0.13 * frame + a), 0.42 * np.sin(0.17 * frame + b), 0.03 * np.sin(0.4 * frame + c)])


def _frame(number: int, seed: int, cameras: list[Camera], fill: float) -> list[Silhouette]:
    where = place(seed, number)
    moved = []
    for camera in cameras:
        w2c = camera.w2c.copy()
        w2c[:3, 3] += w2c[:3, :3] @ where
        moved.append(replace(camera, w2c=w2c))
    coats, poses = ["brown"], ["walk", "stand", "crouch", "turn", "sniff"]
    drawn = make_sample((seed, number), moved, coats, poses, fill, 0, 1, frame_cameras=len(moved))
    return [Silhouette.of(np.ascontiguousarray(p[..., 3] > 127)) for p in drawn.pictures]


def rig_of(seed: int, count: int, side: int = SIDE) -> list[Camera]:
    """Cameras all round, in no order that is even, some of them high."""
    rng = np.random.default_rng(seed)
    out = []
    for i in range(count):
        azimuth, elevation = 360 * i / count + rng.uniform(-14, 14), rng.uniform(5, 70)
        out.append(orbit_camera(azimuth, elevation, 2.7 * rng.uniform(0.8, 1.25), side, 700))
    return out


def film(seed: int, cameras: int, frames: int, fill: float = 0.4, side: int = SIDE) -> Seen:
    """Render a recording; every frame from (seed, frame) alone."""
    rig = rig_of(seed, cameras, side)
    with ProcessPoolExecutor(2) as pool:
        seen = list(pool.map(partial(_frame, seed=seed, cameras=rig, fill=fill), range(frames), chunksize=4))
    return Seen([LensCamera(f"cam{i}", c) for i, c in enumerate(rig)], seen)


def turned(camera: Camera, degrees: float, axis: np.ndarray) -> Camera:
    """A camera that was turned about an axis through its centre."""
    w2c = camera.w2c.copy()
    w2c[:3] = cv2.Rodrigues(np.radians(degrees) * axis / np.linalg.norm(axis))[0] @ w2c[:3]
    return replace(camera, w2c=w2c)


def shaken(seen: Seen, millimetres: float, seed: int) -> Seen:
    """Every camera moved a little: the noise of an honest calibration."""
    rng = np.random.default_rng(seed)
    cameras = []
    for entry in seen.cameras:
        w2c = entry.camera.w2c.copy()
        w2c[:3, 3] += rng.normal(size=3) / 3**0.5 * millimetres / UNITS
        cameras.append(replace(entry, camera=replace(entry.camera, w2c=w2c)))
    return Seen(cameras, seen.frames)


def changed_masks(seen: Seen, change: str, seed: int) -> Seen:
    """Masks as labs have them: without the tail, blurred and thresholded again, or nibbled at the edge."""
    rng = np.random.default_rng(seed)

    def one(s: Silhouette) -> Silhouette:
        full = np.zeros(s.size[::-1], np.uint8)
        s.draw(full, 255)
        if change == "no tail":
            width = max(3, int(s.area**0.5 / 6)) | 1
            full = cv2.morphologyEx(full, cv2.MORPH_OPEN, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width)))
        elif change == "soft":
            full = cv2.GaussianBlur(full, (0, 0), 1.5)
        else:
            full[rng.uniform(size=full.shape) < 0.02] = 0
            full = cv2.medianBlur(full, 3)
        return Silhouette.of(full > 127) if (full > 127).any() else s

    return Seen(seen.cameras, [[one(s) for s in frame] for frame in seen.frames])
