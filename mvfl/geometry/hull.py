"""Visual hull: where in space an animal can be, given silhouettes from known cameras."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

MAX_GRID = 96  # voxels per side; fewer for small pictures
# Half the side of the cube that is carved, in world units; animals lie within +-1 of the origin.
HALF_SIDE = 0.85


def projection_matrices(c2w: Float[Tensor, "view 4 4"], intrinsics: Float[Tensor, "view 4"]) -> Float[Tensor, "view 3 4"]:
    """K [R | t] of each camera; maps homogeneous world points to pixels times depth."""
    w2c = torch.linalg.inv(c2w)[:, :3]
    k = torch.zeros(len(c2w), 3, 3)
    k[:, 0, 0], k[:, 1, 1], k[:, 0, 2], k[:, 1, 2] = intrinsics.unbind(-1)
    k[:, 2, 2] = 1
    return k @ w2c


def grid_points(side: int, half: float = HALF_SIDE) -> Float[Tensor, "point 3"]:
    """Centres of side^3 voxels of a cube around the origin."""
    axis = (torch.arange(side) + 0.5) / side * 2 * half - half
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)


def _projected(projections: Float[Tensor, "view 3 4"], points: Float[Tensor, "point 3"]) -> tuple[Tensor, Tensor, Tensor]:
    """Column, row (pixels) and depth of each point in each view."""
    u, v, depth = (projections @ torch.cat([points, torch.ones(len(points), 1)], 1).T).unbind(1)
    return u / depth, v / depth, depth


def carve(
    masks: Float[Tensor, "view 1 height width"], projections: Float[Tensor, "view 3 4"], points: Float[Tensor, "point 3"]
) -> Float[Tensor, "view point"]:
    """Silhouette value (bilinear) of every point in every view; the hull is where all of them are above one half."""
    height, width = masks.shape[-2:]
    column, row, _ = _projected(projections, points)
    grid = torch.stack([2 * column / width - 1, 2 * row / height - 1], -1)
    return F.grid_sample(masks, grid[:, None], align_corners=False)[:, 0, 0]


def reproject(
    occupied: Float[Tensor, "point 3"], projections: Float[Tensor, "view 3 4"], size: int, reach: int
) -> Bool[Tensor, "view size size"]:
    """Silhouettes of occupied voxels that lie up to 2 reach pixels apart: gaps are closed, outlines stay where they are.

    Outlines that grew by `reach` would fit thin bodies best, which views of no common body carve.
    """
    out = torch.zeros(len(projections), 1, size, size)
    if len(occupied):
        column, row = (t.long().clamp(0, size - 1) for t in _projected(projections, occupied)[:2])
        for view in range(len(out)):
            out[view, 0, row[view], column[view]] = 1
    grown = F.max_pool2d(out, 2 * reach + 1, 1, reach)
    return -F.max_pool2d(-grown, 2 * reach + 1, 1, reach)[:, 0] > 0


@dataclass(frozen=True)
class Hull:
    """A carved body.

    Attributes:
        points: occupied voxel centres [point, 3].
        voxel: side of a voxel in world units.
        iou: IoU of each silhouette with the hull's own one, per view. Silhouettes of one body seen by the right cameras
            carve a hull that fills all of them.
    """

    points: Float[Tensor, "point 3"]
    voxel: float
    iou: Float[Tensor, " view"]


def carve_hull(
    masks: Float[Tensor, "view 1 size size"], c2w: Float[Tensor, "view 4 4"], intrinsics: Float[Tensor, "view 4"]
) -> Hull:
    """Carve a body near the origin from silhouettes and compare its own silhouettes with them."""
    size = masks.shape[-1]
    projections = projection_matrices(c2w, intrinsics)
    grid = min(MAX_GRID, size)
    points = grid_points(grid)
    hull = points[(carve(masks, projections, points) > 0.5).all(0)]
    voxel = 2 * HALF_SIDE / grid
    distance = float(c2w[0, :3, 3].norm())
    reach = max(1, math.ceil(0.5 * voxel * float(intrinsics[0, 0]) / distance))
    own = reproject(hull, projections, size, reach)
    truth = masks[:, 0] > 0
    iou = (own & truth).sum((1, 2)).float() / (own | truth).sum((1, 2)).clamp(min=1)
    return Hull(hull, voxel, iou)
