"""View consistency from geometry: do the sampled silhouettes and colours fit one body?

No network is needed since all cameras are known. Both figures are relative to those of the recorded views of the
same animal, so 1 means "as consistent as real pictures".
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from mvfl.geometry.cameras import Camera
from mvfl.geometry.hull import carve_hull, projection_matrices, sample_pictures
from mvfl.geometry.tensors import camera_tensors
from mvfl.metrics.image import predicted_mask


class Consistency(NamedTuple):
    """Figures of one object.

    Attributes:
        hull_iou: IoU of the silhouettes with the reprojected visual hull, mean over views.
        hull_iou_per_view: the same per view.
        colour: 1 - mean standard deviation across views of the colour of hull surface points, scaled to 0..1.
    """

    hull_iou: float
    hull_iou_per_view: list[float]
    colour: float


def view_consistency(images: Float[Tensor, "view 3 height width"], cameras: list[Camera]) -> Consistency:
    """Carve a hull from the silhouettes of all views and compare its own silhouettes with them.

    Silhouettes of one body carve a hull that fills all of them; whatever one view shows alone is carved away and
    missing in the others.

    Args:
        images: one object over white, in the order of `cameras`.
        cameras: of the views, at the images' size.
    """
    c2w, intrinsics = camera_tensors(cameras)
    hull = carve_hull(predicted_mask(images).float(), c2w, intrinsics)
    colour = _colour_agreement(images, projection_matrices(c2w, intrinsics), hull.points, hull.voxel)
    return Consistency(float(hull.iou.mean()), hull.iou.tolist(), colour)


def _colour_agreement(images: Tensor, projections: Tensor, hull: Tensor, voxel: float) -> float:
    """Agreement of colours at surface points among the views in which nothing of the hull lies before them."""
    if len(hull) < 8:
        return 0.0
    colours, depth = sample_pictures(images, projections, hull)
    # A coarse depth buffer per view: the nearest hull point per cell is the visible one.
    cells = 48
    homogeneous = torch.cat([hull, torch.ones(len(hull), 1)], 1)
    u, v, z = (projections @ homogeneous.T).unbind(1)
    size = images.shape[-1]
    cell = (u / z / size * cells).long().clamp(0, cells - 1) + cells * (v / z / size * cells).long().clamp(0, cells - 1)
    nearest = torch.full((len(images), cells * cells), torch.inf).scatter_reduce(1, cell, depth, "amin")
    seen = depth <= nearest.gather(1, cell) + 2 * voxel
    count = seen.sum(0)
    shared = count >= 2
    if not shared.any():
        return 0.0
    weight = seen[:, None, shared].float()
    values, count = colours[:, :, shared], count[shared].float()
    mean = (values * weight).sum(0) / count
    spread = (((values - mean) ** 2 * weight).sum(0) / count).mean(0).sqrt()
    return float((1 - spread.mean() / 0.5).clamp(0, 1))
