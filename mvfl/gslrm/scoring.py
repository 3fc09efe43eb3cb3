"""Reconstructing objects, rendering them from other cameras, and scoring the renderings beside pictures that need no model."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from mvfl.gslrm.fitting import fitted
from mvfl.gslrm.hull_baseline import hull_pictures
from mvfl.gslrm.model import Gslrm, GslrmOutput
from mvfl.gslrm.rendering import Renderer, Rendering, render_objects
from mvfl.gslrm.views import Views
from mvfl.metrics.image import foreground_psnr, foreground_ssim, full_psnr, full_ssim, mask_iou
from mvfl.metrics.lpips import Lpips
from mvfl.runtime.devices import half_precision


def reconstruct(model: Gslrm, inputs: Views) -> GslrmOutput:
    """Run the network on a batch of objects."""
    return model(inputs.images, inputs.c2w, inputs.intrinsics)


@torch.no_grad()
def infer(model: Gslrm, inputs: Views) -> GslrmOutput:
    """Run a network that is not trained on: in bf16 where the card computes in it; where Gaussians lie stays float32.

    Then fit its Gaussians to the inputs, as its configuration says.
    """
    place, steps = inputs.images.device, model.config.fit_steps
    half = half_precision(place)
    with torch.autocast(place.type, half, enabled=half != torch.float32):
        output = reconstruct(model, inputs)
    if not steps:
        return output
    objects = [Views(*fields) for fields in zip(*(t.unbind() for t in vars(inputs).values()), strict=True)]
    return output._replace(gaussians=[fitted(g, own, steps) for g, own in zip(output.gaussians, objects, strict=True)])


def render_views(output: GslrmOutput, targets: Views, renderer: Renderer) -> Rendering:
    """Render every object of a batch from its target cameras."""
    height, width = targets.images.shape[-2:]
    return render_objects(output.gaussians, targets.c2w, targets.intrinsics, height, width, renderer)


@torch.no_grad()
def evaluate_views(
    model: Gslrm, inputs: Views, targets: Views, renderer: Renderer, lpips: Lpips | None = None
) -> tuple[Rendering, dict[str, float]]:
    """Reconstruct one object and score its renderings from the target cameras, as `score_pictures` does."""
    rendered = render_views(infer(model, Views.stacked([inputs])), Views.stacked([targets]), renderer)
    images = rendered.images[0].clamp(0, 1)
    return Rendering(images, rendered.alphas[0]), score_pictures(images, targets, lpips)


def score_pictures(images: Float[Tensor, "view 3 height width"], targets: Views, lpips: Lpips | None = None) -> dict[str, float]:
    """Foreground PSNR (dB), foreground SSIM and mask IoU; PSNR, SSIM and LPIPS of the whole picture, as papers report them.

    Args:
        images: of the target cameras.
        targets: recorded by them.
        lpips: where its files are named.

    Returns:
        Means over the views.
    """
    others = {} if lpips is None else {"full_lpips": float(lpips(images, targets.images).mean())}
    return {
        "foreground_psnr": float(foreground_psnr(images, targets.images, targets.alphas).mean()),
        "foreground_ssim": float(foreground_ssim(images, targets.images, targets.alphas).mean()),
        "mask_iou": float(mask_iou(images, targets.images).mean()),
        "full_psnr": float(full_psnr(images, targets.images).mean()),
        "full_ssim": float(full_ssim(images, targets.images).mean()),
        **others,
    }


def pictures_without_model(inputs: Views, targets: Views) -> dict[str, Float[Tensor, "view 3 height width"]]:
    """Baselines: blank, the input of the camera nearest to each target's, the mean of all inputs; of two or more, their hull."""
    directions = [torch.nn.functional.normalize(v.c2w[:, :3, 3], dim=-1) for v in (targets, inputs)]
    nearest = (directions[0] @ directions[1].T).argmax(1)
    hull = {"hull": hull_pictures(inputs, targets)} if len(inputs.images) > 1 else {}
    return {
        "blank": torch.ones_like(targets.images),
        "copy": inputs.images[nearest],
        "mean": inputs.images.mean(0, keepdim=True).expand_as(targets.images),
        **hull,
    }
