"""Recorded pictures in slot order, and how predictions compare with them per slot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mvfl.config.strict import ViewConditioning
from mvfl.data.pictures import composite, view_pictures
from mvfl.geometry.cameras import Camera
from mvfl.metrics.image import foreground_psnr, foreground_ssim, mask_iou
from mvfl.mvdiffusion.slots import slot_views
from mvfl.records.manifest import Manifest
from mvfl.runtime.devices import device

METRICS = ("psnr", "ssim", "iou")


@dataclass(frozen=True)
class Truth:
    """Recorded pictures of (sample, reference) pairs in slot order.

    Attributes:
        names: sample per pair.
        references: reference view per pair.
        images: RGB over white [pair, slot, 3, height, width].
        alphas: masks [pair, slot, 1, height, width].
        inputs: the reference picture [pair, 3, height, width].
        views: view index per pair and slot.
        cameras: of each pair's views, in the order of the views: the sample's own.
    """

    names: list[str]
    references: list[int]
    images: Float[Tensor, "pair slot 3 height width"]
    alphas: Float[Tensor, "pair slot 1 height width"]
    inputs: Float[Tensor, "pair 3 height width"]
    views: list[list[int]]
    cameras: list[list[Camera]]

    @property
    def reference_slots(self) -> list[int]:
        """Slot that shows the input, per pair; it is never scored."""
        return [v.index(r) for v, r in zip(self.views, self.references, strict=True)]

    @property
    def scored(self) -> Bool[Tensor, "pair slot"]:
        """All slots but the reference's."""
        mask = torch.ones(len(self.names), len(self.views[0]), dtype=torch.bool)
        mask[range(len(self.names)), self.reference_slots] = False
        return mask


def load_truth(manifest: Manifest, pairs: Sequence[tuple[str, int]], conditioning: ViewConditioning) -> Truth:
    """Read the pictures of (sample, reference) pairs."""
    images, alphas, inputs, views, cameras = [], [], [], [], []
    cache: dict[str, tuple[Tensor, list[Camera]]] = {}
    size = manifest.image_size
    for name, reference in pairs:
        if name not in cache:
            sample = manifest.sample(name)
            cache[name] = view_pictures(manifest, sample), [c.resized(size, size) for c in sample.cameras[: manifest.views]]
        rgba, own = cache[name]
        rgb = composite(rgba, 1.0)
        order = slot_views(manifest.rig, reference, conditioning)
        images.append(rgb[order])
        alphas.append(rgba[order, 3:])
        inputs.append(rgb[reference])
        views.append(order)
        cameras.append(own)
    return Truth(
        [p[0] for p in pairs], [p[1] for p in pairs], torch.stack(images), torch.stack(alphas), torch.stack(inputs), views, cameras
    )


def score_views(images: Float[Tensor, "pair slot 3 height width"], truth: Truth) -> dict[str, Float[Tensor, "pair slot"]]:
    """Foreground PSNR (dB), foreground SSIM and mask IoU per pair and slot."""
    rows = []
    for pair in zip(images, truth.images, truth.alphas, strict=True):  # one at a time, for the memory
        predicted, true, alpha = (pictures.to(device()) for pictures in pair)
        found = (foreground_psnr(predicted, true, alpha), foreground_ssim(predicted, true, alpha), mask_iou(predicted, true))
        rows.append(torch.stack(found).cpu())
    return dict(zip(("psnr", "ssim", "iou"), torch.stack(rows, dim=1), strict=True))


def slot_assignment(images: Float[Tensor, "pair slot 3 height width"], truth: Truth) -> Bool[Tensor, "pair slot"]:
    """Whether each prediction is nearer (mean squared error) to its own slot's picture than to any other's."""
    nearest = [torch.cdist(a.flatten(1), b.flatten(1)).argmin(1) for a, b in zip(images, truth.images, strict=True)]
    return torch.stack(nearest) == torch.arange(images.shape[1])


def share(right: Bool[Tensor, "pair slot"], mask: Bool[Tensor, "pair slot"]) -> float:
    """Share of the slots in `mask` that are right; in float32, 6 of 20 would lie above a limit of 0.3."""
    return int((right & mask).sum()) / int(mask.sum())


def copy_score(images: Float[Tensor, "pair slot 3 height width"], truth: Truth) -> Float[Tensor, "pair slot"]:
    """Likeness of each prediction to the input beyond what the truth itself has; 0 for perfect views.

    Likeness is the foreground SSIM against the input picture.
    """
    out = []
    for i, slot in enumerate(truth.reference_slots):
        predicted, true, seen = (pictures.to(device()) for pictures in (images[i], truth.images[i], truth.inputs[i]))
        seen, mask = seen.expand_as(predicted), truth.alphas[i, slot].to(device()).expand_as(truth.alphas[i])
        out.append((foreground_ssim(predicted, seen, mask) - foreground_ssim(true, seen, mask)).cpu())
    return torch.stack(out)
