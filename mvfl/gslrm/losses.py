"""Loss terms of GS-LRM; formulas of the published model, each with its own weight."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torchmetrics.functional.image import structural_similarity_index_measure

from mvfl.config.gslrm import GslrmFinetuning, GslrmLosses
from mvfl.gslrm.checkpoint import IGNORED_PREFIX
from mvfl.gslrm.model import Rays
from mvfl.gslrm.rendering import Rendering
from mvfl.runtime.files import InputError
from mvfl.runtime.weights import load_strictly, read_tensors, require_sound

VGG_MEAN = (123.68, 116.779, 103.939)
VGG_CHANNELS = (64, 64, 128, 128, 256, 256, 256, 256, 512, 512, 512, 512, 512, 512)
POOL_AFTER = (2, 4, 8, 12)
FEATURE_WEIGHTS = {2: 1 / 2.6, 4: 1 / 4.8, 6: 1 / 3.7, 10: 1 / 5.6, 14: 10 / 1.5}


class Vgg19(nn.Module):
    """VGG-19 up to its 14th convolution with average pooling, on RGB scaled to 255 minus the channel means."""

    def __init__(self) -> None:
        super().__init__()
        inputs = (3, *VGG_CHANNELS)
        for i, channels in enumerate(VGG_CHANNELS, 1):
            self.add_module(f"conv{i}", nn.Conv2d(inputs[i - 1], channels, 3, padding=1))
        self.requires_grad_(False)

    def forward(self, images: Float[Tensor, "n 3 height width"]) -> list[Tensor]:
        """Normalised input and the features after the ReLU of convolutions 2, 4, 6, 10 and 14."""
        x = 255 * images - torch.tensor(VGG_MEAN, device=images.device).view(1, 3, 1, 1)
        out = [x]
        for i in range(1, len(VGG_CHANNELS) + 1):
            x = F.relu(self.get_submodule(f"conv{i}")(x))
            if i in FEATURE_WEIGHTS:
                out.append(x)
            if i in POOL_AFTER:
                x = F.avg_pool2d(x, 2)
        return out


CARRIED = IGNORED_PREFIX + "perceptual_loss_module.net."  # as a published GS-LRM checkpoint holds its loss network


def load_vgg(path: Path) -> Vgg19:
    """Read VGG-19 by itself (`conv<i>.weight|bias`), or out of a GS-LRM checkpoint that was published with its loss networks.

    Entries of later convolutions are ignored since no feature uses them.

    Args:
        path: `.safetensors` or `.pt`.

    Raises:
        InputError: missing, damaged, or lacking a tensor.
    """
    vgg = Vgg19()
    wanted = vgg.state_dict()
    tensors = read_tensors(path, "VGG-19 weights", inside="model")
    carried = {k.removeprefix("model.").removeprefix(CARRIED): v for k, v in tensors.items() if CARRIED in k}
    state = {k: v for k, v in (carried or tensors).items() if k in wanted}
    if not state:
        raise InputError(
            f"{path} holds no VGG-19: the perceptual term needs its weights, as the published GS-LRM checkpoint holds them. Name "
            "a file that does in gslrm.losses.vgg_path, or set perceptual to 0."
        )
    load_strictly(vgg, state, str(path))
    require_sound(state, str(path))
    return vgg


def perceptual_loss(
    vgg: Vgg19, images: Float[Tensor, "n 3 height width"], truth: Float[Tensor, "n 3 height width"]
) -> Float[Tensor, ""]:
    """Weighted mean absolute differences of the inputs and five features, divided by 255."""
    differences = [(a - b).abs().mean() for a, b in zip(vgg(images), vgg(truth), strict=True)]
    weights = [1.0, *FEATURE_WEIGHTS.values()]
    return sum((w * d for w, d in zip(weights, differences, strict=True)), torch.zeros_like(differences[0])) / 255


def ssim_loss(images: Float[Tensor, "n 3 height width"], truth: Float[Tensor, "n 3 height width"]) -> Float[Tensor, ""]:
    """1 - SSIM: Gaussian window 11, sigma 1.5, no padding, in float32 (half precision once went negative)."""
    _, full = structural_similarity_index_measure(
        images.float(), truth.float(), data_range=1.0, reduction="none", return_full_image=True
    )
    # torchmetrics pads by reflection; windows that lie wholly inside the picture are those of an unpadded filter.
    return (1 - full[..., 5:-5, 5:-5]).mean()  # the mean of a slice of ones and a bit loses what is left after the 1


def pixelalign_loss(
    xyz: Float[Tensor, "b v 3 height width"], rays: Rays, alpha: Float[Tensor, "b v 1 height width"] | None
) -> Float[Tensor, ""]:
    """Mean distance of pixel Gaussians from their own rays; the foot point carries no gradient.

    Args:
        xyz: Gaussian centres.
        rays: of the same views.
        alpha: where given, multiplies the offset from the camera first.
    """
    offset = xyz - rays.origins[..., None, None]
    along = (offset.detach() * rays.directions).sum(2, keepdim=True)
    across = offset - along * rays.directions
    if alpha is not None:
        across = across * alpha
    return across.norm(dim=2).mean()


def pointsdist_loss(xyz: Float[Tensor, "b v 3 height width"], rays: Rays) -> Float[Tensor, ""]:
    """Pull ray distances towards mean |o| and standard deviation 0.5 per view."""
    origins = rays.origins[..., None, None]
    distance = (xyz - origins).norm(dim=2, keepdim=True)
    with torch.no_grad():
        flat = distance.flatten(2)
        mean, std = flat.mean(-1)[..., None, None, None], flat.std(-1)[..., None, None, None]
        wanted = (distance - mean) / (std + 1e-8) * 0.5 + origins.norm(dim=2, keepdim=True)
    return (distance - wanted).square().mean()


def masked_l2_loss(
    images: Float[Tensor, "*batch 3 height width"],
    truth: Float[Tensor, "*batch 3 height width"],
    alpha: Float[Tensor, "*batch 1 height width"],
) -> Float[Tensor, ""]:
    """Mean squared error over the pixels whose alpha exceeds 0.5; 0 where there are none."""
    mask = (alpha > 0.5).to(images.dtype)
    return (mask * (images - truth).square()).sum() / (3 * mask.sum().clamp(min=1))


def losses_at(settings: GslrmFinetuning, step: int) -> GslrmLosses:
    """Weights of the loss terms at a step: the published warm-ups switch terms off at first."""
    losses = settings.losses
    if step < settings.pointsdist_warmup_steps:
        return losses.model_copy(update={"l2": 0.0, "masked_l2": 0.0, "perceptual": 0.0, "pointsdist": 0.1})
    if step < settings.l2_warmup_steps:
        return losses.model_copy(update={"perceptual": 0.0})
    return losses


class LossValues(NamedTuple):
    """The weighted sum and each active term."""

    total: Float[Tensor, ""]
    terms: dict[str, Tensor]


class Targets(NamedTuple):
    """What renderings should look like.

    Attributes:
        images: pictures over the background, all pixels count.
        alphas: masks, where there are some.
    """

    images: Float[Tensor, "b v 3 height width"]
    alphas: Float[Tensor, "b v 1 height width"] | None = None


class PixelGaussians(NamedTuple):
    """Centres of the pixel Gaussians and the rays that they belong to, of the input views."""

    xyz: Float[Tensor, "b seen 3 height width"]
    rays: Rays


def gslrm_loss(
    weights: GslrmLosses,
    rendered: Rendering,
    targets: Targets,
    pixels: PixelGaussians | None = None,
    mask_pixelalign: bool = True,
    vgg: Vgg19 | None = None,
) -> LossValues:
    """Weighted sum of the active terms; a weight of 0 removes a term.

    Args:
        weights: of the terms.
        rendered: renderings, not clamped, and their opacity.
        targets: what they should look like.
        pixels: for `pixelalign` and `pointsdist`.
        mask_pixelalign: multiply by the mask (input and target views must then agree).
        vgg: network of the perceptual term.
    """
    flat, truth = rendered.images.flatten(0, 1), targets.images.flatten(0, 1)
    terms: dict[str, Tensor] = {}
    if weights.l2:
        terms["l2"] = (flat - truth).square().mean()
    if weights.masked_l2:
        terms["masked_l2"] = masked_l2_loss(rendered.images, targets.images, _masks(targets, "masked_l2"))
    if weights.ssim:
        terms["ssim"] = ssim_loss(flat, truth)
    if weights.perceptual:
        if vgg is None:
            raise ValueError("The perceptual term needs its network.")
        terms["perceptual"] = perceptual_loss(vgg, flat, truth)
    if weights.alpha:
        terms["alpha"] = (rendered.alphas - _masks(targets, "alpha")).abs().mean()
    if weights.pixelalign or weights.pointsdist:
        if pixels is None:
            raise ValueError("pixelalign and pointsdist need the pixel Gaussians and rays.")
        if weights.pixelalign:
            terms["pixelalign"] = pixelalign_loss(pixels.xyz, pixels.rays, targets.alphas if mask_pixelalign else None)
        if weights.pointsdist:
            terms["pointsdist"] = pointsdist_loss(pixels.xyz, pixels.rays)
    total = sum((getattr(weights, k) * v for k, v in terms.items()), torch.zeros((), device=rendered.images.device))
    return LossValues(total, terms)


def _masks(targets: Targets, term: str) -> Float[Tensor, "b v 1 height width"]:
    if targets.alphas is None:
        raise ValueError(f"The {term} term needs masks; generated views have none: derive them first.")
    return targets.alphas
