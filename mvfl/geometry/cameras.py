"""Pinhole cameras.

Conventions everywhere in mvfl: OpenCV camera axes (x right, y down, z forward), the stored matrix is
world-to-camera (w2c, column vectors), the world is Z-up, pixel (column i, row j) covers
[i, i+1) x [j, j+1) so its centre lies at +0.5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

# Field of view 50 degrees at 512 px: the virtual camera of the published models.
FOCAL_512 = 256 / math.tan(math.radians(25))
ORBIT_DISTANCE = 2.7


class CameraError(ValueError):
    """A camera that no picture can belong to; the message names the remedy."""


@dataclass(frozen=True)
class Camera:
    """One pinhole camera.

    Attributes:
        width, height: image size in pixels that the intrinsics refer to.
        fx, fy, cx, cy: intrinsics in pixels.
        w2c: world-to-camera matrix [4, 4], float64.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    w2c: np.ndarray

    @property
    def c2w(self) -> np.ndarray:
        """Camera-to-world matrix [4, 4]; columns right, down, forward, position."""
        return np.linalg.inv(self.w2c)

    @property
    def position(self) -> np.ndarray:
        """Camera centre in world units [3]."""
        return -self.w2c[:3, :3].T @ self.w2c[:3, 3]

    @property
    def spherical(self) -> tuple[float, float, float]:
        """Azimuth atan2(y, x) and elevation asin(z/d) in degrees, and distance d, of the camera centre (Z-up)."""
        x, y, z = self.position
        distance = float(np.linalg.norm(self.position))
        return math.degrees(math.atan2(y, x)), math.degrees(math.asin(z / distance)), distance

    @property
    def heading(self) -> float:
        """Azimuth in degrees as the picture has it: where a level camera with this horizontal axis would stand.

        Equals the azimuth of a camera without roll that looks at the origin, and stays defined straight above it.
        """
        right = self.w2c[0, :3]
        return math.degrees(math.atan2(-right[0], right[1]))

    def resized(self, width: int, height: int) -> Camera:
        """The same camera for an image resampled to another size (intrinsics follow the pixels)."""
        sx, sy = width / self.width, height / self.height
        return replace(self, width=width, height=height, fx=self.fx * sx, fy=self.fy * sy, cx=self.cx * sx, cy=self.cy * sy)

    def project(self, points: np.ndarray) -> np.ndarray:
        """Project world points [n, 3] to (column, row, depth along z) [n, 3], in pixels and world units."""
        cam = points @ self.w2c[:3, :3].T + self.w2c[:3, 3]
        u = self.fx * cam[:, 0] / cam[:, 2] + self.cx
        v = self.fy * cam[:, 1] / cam[:, 2] + self.cy
        return np.stack([u, v, cam[:, 2]], 1)

    def check(self, where: str) -> None:
        """Raise `CameraError` for a camera that cannot have taken a picture of an object at the origin.

        Args:
            where: what to name in the message, for example a file and a view number.
        """
        rotation = self.w2c[:3, :3]
        if not np.isfinite(self.w2c).all() or not all(math.isfinite(v) for v in (self.fx, self.fy, self.cx, self.cy)):
            raise CameraError(f"{where}: w2c, fx, fy, cx or cy holds NaN or infinity; write the calibration again.")
        if not np.allclose(self.w2c[3], [0, 0, 0, 1], atol=1e-6):
            raise CameraError(f"{where}: the last row of w2c is {self.w2c[3].tolist()}, expected 0 0 0 1; write rows, not columns.")
        if not np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-3):
            raise CameraError(f"{where}: the rotation of w2c is not orthonormal; a scale belongs into the translation, not into R.")
        determinant = float(np.linalg.det(rotation))
        if determinant < 0.99:
            raise CameraError(
                f"{where}: det R = {determinant:+.3f}, expected +1. The matrix mirrors the world: store w2c in OpenCV "
                "axes (x right, y down, z forward), third row pointing at the animal."
            )
        if self.w2c[2, 3] <= 0:
            raise CameraError(
                f"{where}: the world origin lies behind the camera (z = {self.w2c[2, 3]:.3f}). Move the world to the "
                "animal's centre and check that w2c is not stored as c2w."
            )
        if min(self.fx, self.fy) <= 0 or self.width <= 0 or self.height <= 0:
            raise CameraError(f"{where}: fx, fy, w and h must be positive pixels.")

    def to_frame(self, view: int) -> dict[str, Any]:
        """The camera as one entry of `frames` in `opencv_cameras.json`."""
        azimuth, elevation, distance = self.spherical
        return {
            "w": self.width, "h": self.height, "fx": self.fx, "fy": self.fy, "cx": self.cx, "cy": self.cy,
            "w2c": self.w2c.tolist(), "file_path": f"images/cam_{view:03d}.png", "view_id": view,
            "azimuth_deg": azimuth, "elevation_deg": elevation, "camera_distance": distance,
        }  # fmt: skip

    @staticmethod
    def from_frame(frame: Any, where: str) -> Camera:
        """Read one entry of `frames` in `opencv_cameras.json`.

        Args:
            frame: JSON table with w, h, fx, fy, cx, cy in pixels and w2c, 4 x 4 row-major.
            where: what to name in the message.

        Raises:
            CameraError: something is missing, no number, or impossible.
        """
        if not isinstance(frame, dict):
            raise CameraError(f"{where}: a table with w2c and intrinsics is expected, found a {type(frame).__name__}.")
        missing = [k for k in ("w", "h", "fx", "fy", "cx", "cy", "w2c") if k not in frame]
        if missing:
            raise CameraError(f"{where}: {', '.join(missing)} missing; see docs/data.md for the camera file.")
        try:
            w2c = np.array(frame["w2c"], dtype=np.float64)
            fx, fy, cx, cy = (float(frame[k]) for k in ("fx", "fy", "cx", "cy"))
            width, height = int(frame["w"]), int(frame["h"])
        except (TypeError, ValueError, OverflowError) as error:
            raise CameraError(f"{where}: w, h, fx, fy, cx, cy and w2c must be numbers ({error}); see docs/data.md.") from error
        if w2c.shape != (4, 4):
            raise CameraError(f"{where}: w2c has shape {w2c.shape}, expected 4 x 4, row-major.")
        camera = Camera(width, height, fx, fy, cx, cy, w2c)
        camera.check(where)
        return camera


def orbit_camera(
    azimuth: float, elevation: float, distance: float = ORBIT_DISTANCE, size: int = 512, focal_512: float = FOCAL_512
) -> Camera:
    """A camera on a sphere that looks at the origin, world Z up.

    Position d (cos e cos a, cos e sin a, sin e); forward to the origin; right = forward x z;
    down = forward x right.

    Args:
        azimuth, elevation: degrees. At +-90 the azimuth says how the picture is turned.
        distance: world units.
        size: image side in pixels; the principal point is its middle.
        focal_512: focal length in pixels at 512 px, scaled with the size.
    """
    a, e = math.radians(azimuth), math.radians(elevation)
    eye = distance * np.array([math.cos(e) * math.cos(a), math.cos(e) * math.sin(a), math.sin(e)])
    forward = -eye / np.linalg.norm(eye)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    if np.linalg.norm(right) < 1e-6:  # straight above or below: the azimuth says where up is in the picture
        right = np.array([-math.sin(a), math.cos(a), 0.0])
    right /= np.linalg.norm(right)
    w2c = np.eye(4)
    w2c[:3, :3] = np.stack([right, np.cross(forward, right), forward])
    w2c[:3, 3] = -w2c[:3, :3] @ eye
    focal = focal_512 * size / 512
    return Camera(size, size, focal, focal, size / 2, size / 2, w2c)


def camera_rows(cameras: Sequence[Camera]) -> np.ndarray:
    """Cameras as numbers [view, 16]: the upper three rows of w2c, then fx, fy, cx, cy as shares of width and height."""
    return np.array([[*c.w2c[:3].ravel(), c.fx / c.width, c.fy / c.height, c.cx / c.width, c.cy / c.height] for c in cameras])


def camera_of_row(row: np.ndarray) -> Camera:
    """The camera of a row of `camera_rows`, for a picture whose side is 1."""
    fx, fy, cx, cy = (float(v) for v in row[12:])
    return Camera(1, 1, fx, fy, cx, cy, np.concatenate([row[:12].reshape(3, 4), [[0.0, 0.0, 0.0, 1.0]]]))


def turntable(views: int, elevation: float = 20.0, size: int = 512) -> list[Camera]:
    """Cameras around the object, azimuth 270 to 630 degrees, end excluded."""
    return [orbit_camera(a, elevation, size=size) for a in np.linspace(270, 630, views, endpoint=False)]
