"""Posed pictures: what GS-LRM sees and what supervises it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mvfl.data.pictures import composite, open_picture, view_pictures
from mvfl.geometry.tensors import camera_tensors
from mvfl.gslrm.view_choice import paste_over
from mvfl.metrics.image import predicted_mask
from mvfl.records.manifest import Manifest


@dataclass(frozen=True)
class Views:
    """Posed pictures of one object, or of several stacked.

    Attributes:
        images: RGB over white in 0..1 [..., view, 3, height, width].
        alphas: masks [..., view, 1, height, width].
        c2w: camera-to-world [..., view, 4, 4].
        intrinsics: fx, fy, cx, cy in pixels [..., view, 4].
    """

    images: Float[Tensor, "*batch v 3 height width"]
    alphas: Float[Tensor, "*batch v 1 height width"]
    c2w: Float[Tensor, "*batch v 4 4"]
    intrinsics: Float[Tensor, "*batch v 4"]

    def select(self, views: list[int] | slice) -> Views:
        """Some of the views of one object."""
        return Views(*(t[views] for t in vars(self).values()))

    def to(self, device: torch.device) -> Views:
        """The same on a device; a copy from pinned memory overlaps with computation."""
        return Views(*(t.to(device, non_blocking=True) for t in vars(self).values()))

    def pinned(self) -> Views:
        """The same in page-locked memory."""
        return Views(*(t.pin_memory() for t in vars(self).values()))

    @staticmethod
    def stacked(objects: Sequence[Views]) -> Views:
        """Several objects with equally many views as one batch."""
        return Views(*(torch.stack(field) for field in zip(*(vars(o).values() for o in objects), strict=True)))


def load_views(manifest: Manifest, name: str, all_views: bool = True, eight_bit: bool = False) -> Views:
    """Read a sample over white; generated pictures without alpha get their mask from the distance to white.

    Args:
        manifest: real or synthetic data set.
        name: sample.
        all_views: also the views beyond the rig's.
        eight_bit: composite in 8 bit, as the published loader does.
    """
    sample = manifest.sample(name)
    count = len(sample.files) if all_views else manifest.views
    rgba = view_pictures(manifest, sample, range(count), keep_background=True)
    images, alphas = composite(rgba, 1.0), rgba[:, 3:]
    if eight_bit:
        pasted = [paste_over(open_picture(f).convert("RGBA"), manifest.image_size, 255, False) for f in sample.files[:count]]
        images = torch.stack(pasted)
    opaque = (alphas == 1).flatten(1).all(1)  # each picture for itself: some of a sample may have an alpha channel
    alphas = torch.where(opaque[:, None, None, None], predicted_mask(images).float(), alphas)
    cameras = [c.resized(manifest.image_size, manifest.image_size) for c in sample.cameras[:count]]
    c2w, intrinsics = camera_tensors(cameras)
    return Views(images, alphas, c2w, intrinsics)
