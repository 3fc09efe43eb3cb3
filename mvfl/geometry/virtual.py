"""From real cameras to the virtual ones that models know: centre the world on the animal, look at it, warp the picture.

A pinhole picture can be turned about its optical centre exactly, by a homography, since every pixel is a ray through that
centre. So the world is moved to the animal, one factor scales all distances, and each picture is resampled as a camera at
the same place would have taken it that looks straight at the animal with the models' own intrinsics.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from mvfl.geometry.cameras import FOCAL_512, Camera, orbit_camera
from mvfl.geometry.lens import LensCamera

LEAST_ALPHA = 0.5  # of 255; less is nothing in an 8-bit file
NEAR_POLE = 89.9  # degrees of elevation; beyond, azimuth means nothing


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


def looking_at_origin(camera: Camera, size: int, focal_512: float = FOCAL_512) -> Camera:
    """A camera at the same place, turned to the origin, Z up; from straight above, up is where the recorded picture has it.

    Args:
        camera: in a world whose origin is the animal.
        size: pixels per side.
        focal_512: focal length in pixels at 512 px: the zoom.
    """
    azimuth, elevation, distance = camera.spherical
    if abs(elevation) > NEAR_POLE:
        azimuth, elevation = camera.heading, math.copysign(min(abs(elevation), 90.0), elevation)
    return orbit_camera(azimuth, elevation, distance, size, focal_512)


def turned_picture(
    rgb: UInt8[np.ndarray, "height width 3"], mask: Bool[np.ndarray, "height width"], camera: LensCamera, virtual: Camera,
    corner: tuple[int, int] = (0, 0),
) -> UInt8[np.ndarray, "virtual_height virtual_width 4"]:  # fmt: skip
    """The picture that `virtual` would have taken from the same optical centre: lens and turn undone in one interpolation.

    Each virtual pixel is the mean of a grid of sub-pixels about as fine as the recorded ones, so nothing is aliased; colours are
    weighted by the mask, so no background bleeds into the outline.

    Args:
        rgb: the recorded picture, or the part of it that holds the animal.
        mask: of the animal, in the same part.
        camera, virtual: equal optical centres.
        corner: column and row of the part's first pixel in the recorded picture.

    Returns:
        RGBA, straight alpha; transparent where nothing was recorded, colour 0 where transparent.

    Raises:
        ValueError: the optical centres differ.
    """
    place = camera.camera.position
    if not np.allclose(place, virtual.position, atol=1e-6 * np.linalg.norm(place)):
        raise ValueError("A picture can be turned about its own optical centre only; the two cameras stand in different places.")
    fine = max(1, math.ceil(camera.camera.fx / virtual.fx))
    columns, rows = camera.map_from(virtual, fine)
    alpha = mask.astype(np.float32)
    source = np.concatenate([rgb.astype(np.float32) * alpha[..., None], 255 * alpha[..., None]], -1)
    columns, rows = columns - np.float32(corner[0]), rows - np.float32(corner[1])
    warped = cv2.remap(source, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
    if fine > 1:
        warped = cv2.resize(warped, (virtual.width, virtual.height), interpolation=cv2.INTER_AREA)
    out = np.zeros(warped.shape, np.uint8)
    seen = warped[..., 3] >= LEAST_ALPHA
    out[seen, :3] = np.rint(np.clip(255 * warped[seen, :3] / warped[seen, 3:], 0, 255))
    out[seen, 3] = np.rint(warped[seen, 3])
    return out
