"""View consistency from geometry: do the sampled silhouettes fit one body?

No network is needed since all cameras are known. The verdict divides the figure by that of the recorded views of the
same animal, so 1 means "as consistent as real pictures".
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from mvfl.geometry.cameras import Camera
from mvfl.geometry.hull import carve_hull
from mvfl.geometry.tensors import camera_tensors
from mvfl.metrics.image import predicted_mask


def view_consistency(images: Float[Tensor, "view 3 height width"], cameras: list[Camera]) -> float:
    """Carve a hull from the silhouettes of all views and compare its own silhouettes with them.

    Silhouettes of one body carve a hull that fills all of them; whatever one view shows alone is carved away and
    missing in the others.

    Args:
        images: one object over white, in the order of `cameras`.
        cameras: of the views, at the images' size.

    Returns:
        IoU of the silhouettes with the reprojected visual hull, mean over views.
    """
    c2w, intrinsics = camera_tensors(cameras)
    return float(carve_hull(predicted_mask(images).float(), c2w, intrinsics).iou.mean())
