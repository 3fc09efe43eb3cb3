"""Picture metrics on the animal: the background is never scored, since a blank picture would win on it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from mvfl.data.pictures import FOREGROUND_DISTANCE

WINDOW = 11  # pixels, of SSIM


def predicted_mask(images: Float[Tensor, "n 3 height width"]) -> Bool[Tensor, "n 1 height width"]:
    """Pixels that differ from white by more than `FOREGROUND_DISTANCE`, averaged over the channels."""
    return (1 - images).abs().mean(1, keepdim=True) > FOREGROUND_DISTANCE


def scored_region(
    images: Float[Tensor, "n 3 height width"], alpha: Float[Tensor, "n 1 height width"]
) -> Bool[Tensor, "n 1 height width"]:
    """Where a prediction is scored: the true animal and whatever the prediction shows elsewhere."""
    return (alpha > 0.5) | predicted_mask(images)


def foreground_psnr(
    images: Float[Tensor, "n 3 height width"], truth: Float[Tensor, "n 3 height width"], alpha: Float[Tensor, "n 1 height width"]
) -> Float[Tensor, " n"]:
    """PSNR in dB over the scored region, per picture; pictures in 0..1, truth over white."""
    region = scored_region(images, alpha).float()
    error = ((images - truth).square() * region).sum((1, 2, 3)) / (3 * region.sum((1, 2, 3))).clamp(min=1)
    return -10 * torch.log10(error.clamp(min=1e-10))


def foreground_ssim(
    images: Float[Tensor, "n 3 height width"], truth: Float[Tensor, "n 3 height width"], alpha: Float[Tensor, "n 1 height width"]
) -> Float[Tensor, " n"]:
    """SSIM (Gaussian window 11, sigma 1.5) averaged over the scored region, per picture."""
    region, margin = scored_region(images, alpha).double(), (WINDOW // 2,) * 4
    means = []
    # A few at a time, for the memory.
    for a, b, inside in zip(images.split(6), truth.split(6), region.split(6), strict=True):
        padded = [F.pad(x.double(), margin, mode="reflect") for x in (a, b)]
        full = _ssim_map(padded[0], padded[1], 1.0)
        means.append((full.mean(1, keepdim=True) * inside).sum((1, 2, 3)) / inside.sum((1, 2, 3)).clamp(min=1))
    return torch.cat(means).float()


def mask_iou(images: Float[Tensor, "n 3 height width"], truth: Float[Tensor, "n 3 height width"]) -> Float[Tensor, " n"]:
    """Intersection over union of the silhouettes, per picture; both are found by their distance from white.

    One rule for both: a perfect picture scores 1 also where white fur cannot be told from the background.
    """
    a, b = predicted_mask(images), predicted_mask(truth)
    return (a & b).sum((1, 2, 3)).float() / (a | b).sum((1, 2, 3)).clamp(min=1)


def full_psnr(images: Float[Tensor, "n 3 height width"], truth: Float[Tensor, "n 3 height width"]) -> Float[Tensor, " n"]:
    """PSNR in dB over the whole picture, background included, as papers report it; pictures in 0..1."""
    return -10 * torch.log10((images - truth).square().mean((1, 2, 3)).clamp(min=1e-10))


def full_ssim(images: Float[Tensor, "n 3 height width"], truth: Float[Tensor, "n 3 height width"]) -> Float[Tensor, " n"]:
    """SSIM over the whole picture as scikit-image computes it with window 11, gaussian_weights and data_range 1.

    Unlike the one on the animal: sample covariance, and the border of 5 pixels, where windows would leave the picture, is cropped.
    """
    return _ssim_map(images.double(), truth.double(), WINDOW**2 / (WINDOW**2 - 1)).mean((1, 2, 3)).float()


def _ssim_map(
    a: Float[Tensor, "n 3 height width"], b: Float[Tensor, "n 3 height width"], sample: float
) -> Float[Tensor, "n 3 inner_height inner_width"]:
    """SSIM of each whole window (Gaussian, sigma 1.5) of pictures in 0..1 (Wang et al. 2004, equation 13).

    In float64, since variances are small differences of large numbers.

    Args:
        a, b: float64.
        sample: factor of variances and covariances.
    """
    line = torch.exp(-((torch.arange(WINDOW, device=a.device, dtype=torch.float64) - WINDOW // 2) ** 2) / (2 * 1.5**2))
    line /= line.sum()
    # Windows as two banded matrices: torch's convolution in float64 takes twenty times as long on a CPU.
    down, across = (torch.eye(n, device=a.device, dtype=torch.float64).unfold(0, WINDOW, 1) @ line for n in a.shape[-2:])
    mean = lambda x: down @ x @ across.T  # noqa: E731
    ma, mb = mean(a), mean(b)
    va, vb, both = (sample * (mean(x * y) - mx * my) for x, y, mx, my in ((a, a, ma, ma), (b, b, mb, mb), (a, b, ma, mb)))
    c1, c2 = 0.01**2, 0.03**2
    return (2 * ma * mb + c1) * (2 * both + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))
