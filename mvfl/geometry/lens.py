"""Real cameras: a pinhole with a lens that bends rays (OpenCV's radial and tangential model) and a name.

Formulas: OpenCV, module calib3d, "pinhole camera model": with r^2 = x^2 + y^2 of the normalised coordinates,
x' = x (1 + k1 r^2 + k2 r^4 + k3 r^6)/(1 + k4 r^2 + k5 r^4 + k6 r^6) + 2 p1 x y + p2 (r^2 + 2 x^2), y' alike.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import cv2
import numpy as np
from jaxtyping import Float

from mvfl.geometry.cameras import Camera

CORNER_MARGIN = 1.02  # rays this much further out than the picture's corners are not in the picture


@dataclass(frozen=True)
class LensCamera:
    """A camera as it was calibrated.

    Attributes:
        name: as in the calibration and in the names of the videos.
        camera: its pinhole part; pixel centres at +0.5 as everywhere in mvfl.
        distortion: k1 k2 p1 p2 [k3 [k4 k5 k6]]; empty for pictures without distortion.
    """

    name: str
    camera: Camera
    distortion: tuple[float, ...] = ()

    def turned(self, world: Float[np.ndarray, "3 3"]) -> LensCamera:
        """The camera in a world that was turned by a rotation (new point = rotation x old point)."""
        w2c = self.camera.w2c.copy()
        w2c[:3, :3] = w2c[:3, :3] @ world.T
        return replace(self, camera=replace(self.camera, w2c=w2c))

    def matrix(self, shift: float = 0.0) -> Float[np.ndarray, "3 3"]:
        """K; `shift` moves the principal point (OpenCV counts from pixel centres: -0.5)."""
        c = self.camera
        return np.array([[c.fx, 0, c.cx + shift], [0, c.fy, c.cy + shift], [0, 0, 1.0]])

    def coefficients(self) -> Float[np.ndarray, " coefficient"]:
        """Distortion for OpenCV's functions."""
        return np.array(self.distortion or (0.0,) * 5)

    def rays(self, pixels: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
        """Normalised coordinates x/z, y/z in the camera's axes of recorded (column, row); NaN where there are none."""
        c = self.camera
        bent = (pixels - [c.cx, c.cy]) / [c.fx, c.fy]
        if not self.distortion or not len(pixels):
            return bent
        criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 60, 1e-10)
        points = np.ascontiguousarray(bent, dtype=np.float64).reshape(-1, 1, 2)
        flat = cv2.undistortPoints(points, np.eye(3), self.coefficients(), None, np.eye(3), np.eye(3), criteria)[:, 0]
        wrong = ~(np.abs(self._bent(flat) - bent).max(1) < 1e-5) | (np.square(flat).sum(1) > self.reach**2)
        flat[wrong] = np.nan
        return flat

    def undistorted(self, pixels: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
        """Where the pinhole part alone would see what the lens shows at these pixels."""
        c = self.camera
        return self.rays(pixels) * [c.fx, c.fy] + [c.cx, c.cy]

    def project(self, points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 2"]:
        """Column and row of world points in the recorded picture; NaN where the lens shows none (behind, or far outside)."""
        seen = points @ self.camera.w2c[:3, :3].T + self.camera.w2c[:3, 3]
        with np.errstate(divide="ignore", invalid="ignore"):
            flat = seen[:, :2] / seen[:, 2:]
        lost = (seen[:, 2] <= 0) | ~(np.square(flat).sum(1) <= self.reach**2)
        flat[lost] = 0
        c = self.camera
        out = self._bent(flat) * [c.fx, c.fy] + [c.cx, c.cy]
        out[lost] = np.nan
        return out

    def _bent(self, flat: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
        if not self.distortion:
            return flat
        k1, k2, p1, p2, k3, k4, k5, k6 = (*self.distortion, *(0.0,) * 8)[:8]
        x, y = flat.T
        r2 = x * x + y * y
        radial = (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
        cross = 2 * x * y
        return np.stack([x * radial + p1 * cross + p2 * (r2 + 2 * x * x), y * radial + p1 * (r2 + 2 * y * y) + p2 * cross], 1)

    @cached_property
    def reach(self) -> float:
        """Largest r of a ray that the picture shows; beyond its turning point the model of a strong lens folds back into it."""
        c = self.camera
        flat = np.abs([[(u - c.cx) / c.fx, (v - c.cy) / c.fy] for u in (0, c.width) for v in (0, c.height)])
        corner = float(np.linalg.norm(flat, axis=1).max())
        if not self.distortion:
            return CORNER_MARGIN * corner
        r = np.linspace(0, 5, 5001)
        k1, k2, _, _, k3, k4, k5, k6 = (*self.distortion, *(0.0,) * 8)[:8]
        r2 = r * r
        bent = r * (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
        falling = np.flatnonzero((np.diff(bent) <= 0) | (bent[:-1] > CORNER_MARGIN * corner))
        return float(r[falling[0]] if len(falling) else r[-1])

    def map_from(self, virtual: Camera, fine: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Recorded column and row of each pixel of a virtual picture from the same place, for `cv2.remap`.

        Lens and turn are undone in one step, so that a picture is interpolated once.

        Args:
            virtual: same optical centre, any direction and focal length.
            fine: sub-pixels per pixel and axis.

        Returns:
            Two arrays [virtual height x fine, virtual width x fine] in OpenCV's pixels; -10 where nothing was recorded.
        """
        turn = virtual.w2c[:3, :3] @ self.camera.w2c[:3, :3].T
        size = (virtual.width * fine, virtual.height * fine)
        k = np.array([[virtual.fx * fine, 0, virtual.cx * fine - 0.5], [0, virtual.fy * fine, virtual.cy * fine - 0.5], [0, 0, 1]])
        columns, rows = cv2.initUndistortRectifyMap(self.matrix(-0.5), self.coefficients(), turn, k, size, cv2.CV_32FC1)
        u = (np.arange(size[0]) - k[0, 2]) / k[0, 0]
        v = (np.arange(size[1]) - k[1, 2]) / k[1, 1]
        x, y, z = ((turn.T[i, 0] * u)[None] + (turn.T[i, 1] * v + turn.T[i, 2])[:, None] for i in range(3))
        lost = (z <= 0) | (x * x + y * y > (self.reach * z) ** 2)
        columns[lost], rows[lost] = -10, -10
        return columns, rows
