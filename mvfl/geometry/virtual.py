"""From real cameras to the virtual ones that models know: centre the world on the animal, look at it, warp the picture.

A pinhole picture can be turned about its optical centre exactly, by a homography, since every pixel is a ray through that
centre. So the world is moved to the animal, one factor scales all distances, and each picture is resampled as a camera at
the same place would have taken it that looks straight at the animal with the models' own intrinsics.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mvfl.geometry.cameras import Camera, orbit_camera

LEAST_ALPHA = 0.5 / 255  # less is nothing in an 8-bit file


def triangulate(cameras: Sequence[Camera], pixels: Float[np.ndarray, "view 2"]) -> tuple[Float[np.ndarray, "3"], np.ndarray]:
    """The point nearest to the rays through one pixel of each camera (least squares), and its reprojection errors.

    Minimises the sum of squared distances to the rays: sum (I - d d^T) (X - c) = 0.

    Args:
        cameras: at least two, not all on one ray.
        pixels: column and row per camera.

    Returns:
        The point in the cameras' world units, and the distance in pixels between its projection and the pixel per view.
    """
    left, right = np.zeros((3, 3)), np.zeros(3)
    for camera, (u, v) in zip(cameras, pixels, strict=True):
        ray = camera.w2c[:3, :3].T @ np.array([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, 1.0])
        ray /= np.linalg.norm(ray)
        across = np.eye(3) - np.outer(ray, ray)
        left += across
        right += across @ camera.position
    point = np.linalg.solve(left, right)
    errors = [float(np.linalg.norm(c.project(point[None])[0, :2] - p)) for c, p in zip(cameras, pixels, strict=True)]
    return point, np.array(errors)


def moved(camera: Camera, centre: Float[np.ndarray, "3"], scale: float) -> Camera:
    """The camera in a world whose origin is `centre` and whose unit is 1/scale; its picture stays the same."""
    w2c = camera.w2c.copy()
    w2c[:3, 3] = scale * (camera.w2c[:3, 3] + camera.w2c[:3, :3] @ centre)
    return replace(camera, w2c=w2c)


def looking_at_origin(camera: Camera, size: int) -> Camera:
    """A camera at the same place with the models' intrinsics, turned to the origin, Z up."""
    azimuth, elevation, distance = camera.spherical
    return orbit_camera(azimuth, elevation, distance, size)


def turned_picture(
    rgba: Float[Tensor, "4 height width"], camera: Camera, virtual: Camera
) -> Float[Tensor, "4 virtual_height virtual_width"]:
    """The picture that `virtual` would have taken from the same optical centre.

    Homography K R R_v^T K_v^-1 from virtual to recorded pixels. Each virtual pixel is the mean of a grid of sub-pixels about as
    fine as the recorded ones, so nothing is aliased; colours are weighted by alpha, so no background bleeds into the outline.

    Args:
        rgba: straight alpha in 0..1.
        camera, virtual: equal optical centres.

    Returns:
        Straight alpha; transparent beyond the recorded frame, colour 0 where transparent.

    Raises:
        ValueError: the optical centres differ.
    """
    if not np.allclose(camera.position, virtual.position, atol=1e-6 * np.linalg.norm(camera.position)):
        raise ValueError("A picture can be turned about its own optical centre only; the two cameras stand in different places.")
    fine = max(1, math.ceil(camera.fx / virtual.fx))
    unproject = np.array([[1 / virtual.fx, 0, -virtual.cx / virtual.fx], [0, 1 / virtual.fy, -virtual.cy / virtual.fy], [0, 0, 1]])
    project = np.array([[camera.fx, 0, camera.cx], [0, camera.fy, camera.cy], [0, 0, 1]])
    homography = torch.from_numpy(project @ camera.w2c[:3, :3] @ virtual.w2c[:3, :3].T @ unproject).float()
    rows = (torch.arange(virtual.height * fine) + 0.5) / fine
    columns = (torch.arange(virtual.width * fine) + 0.5) / fine
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    u, v, depth = torch.einsum("ij,jhw->ihw", homography, torch.stack([x, y, torch.ones_like(x)]))
    depth = torch.where(depth > 1e-6, depth, torch.full_like(depth, 1e-9))  # behind the recorded camera: far outside
    grid = torch.stack([2 * u / depth / camera.width - 1, 2 * v / depth / camera.height - 1], -1).clamp(-3, 3)
    premultiplied = torch.cat([rgba[:3] * rgba[3:], rgba[3:]])
    warped = F.grid_sample(premultiplied[None], grid[None], mode="bilinear", padding_mode="zeros", align_corners=False)
    warped = F.avg_pool2d(warped, fine)[0]
    alpha = torch.where(warped[3:] < LEAST_ALPHA, torch.zeros_like(warped[3:]), warped[3:])
    colour = torch.where(alpha > 0, warped[:3] / alpha.clamp(min=LEAST_ALPHA), torch.zeros_like(warped[:3]))
    return torch.cat([colour, alpha]).clamp(0, 1)
