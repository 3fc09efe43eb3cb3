"""Do pictures and cameras belong together? What silhouettes alone can tell."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from mvfl.geometry.cameras import Camera
from mvfl.geometry.hull import carve_hull
from mvfl.geometry.tensors import camera_tensors
from mvfl.geometry.virtual import triangulate

HULL_SIDE = 128  # pixels per side at which silhouettes are compared; smaller pictures cannot tell cameras apart


def touches_border(mask: Bool[np.ndarray, "height width"]) -> bool:
    """Whether the animal is cut off."""
    return bool(mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any())


def silhouette_overlap(alphas: Float[Tensor, "view 1 height width"], cameras: Sequence[Camera]) -> float:
    """IoU of the masks with the silhouettes of the body that all of them allow, mean over views.

    About 0.78 for rendered animals with their own cameras; with two cameras swapped 0.5 to 0.6, median over some animals.
    """
    side = min(HULL_SIDE, alphas.shape[-1])
    masks = (F.interpolate(alphas, (side, side), mode="area") > 0.5).float()
    return float(carve_hull(masks, *camera_tensors([c.resized(side, side) for c in cameras])).iou.mean())


def triangulated_centre(
    masks: Sequence[Bool[np.ndarray, "height width"]], cameras: Sequence[Camera]
) -> tuple[Float[np.ndarray, " 3"], Float[np.ndarray, " view"]]:
    """The animal's centre from the masks' centroids, and how far each camera sees it from there, in pixels.

    The nearer end of a long animal looks larger: with perfect cameras 13 px of 512 remain.
    """
    return triangulate(list(cameras), np.array([np.argwhere(m).mean(0)[::-1] + 0.5 for m in masks]))
