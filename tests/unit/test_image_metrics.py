"""Picture metrics on the animal."""

from __future__ import annotations

import pytest
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from mvfl.metrics.image import foreground_psnr, foreground_ssim, mask_iou


def test_metrics_fall_with_noise() -> None:
    torch.manual_seed(0)
    alpha = torch.zeros(1, 1, 48, 48)
    alpha[..., 12:36, 12:36] = 1
    image = torch.where(alpha.bool(), torch.rand(1, 3, 48, 48) * 0.5, torch.ones(1, 3, 48, 48))
    noisy = (image + 0.1 * torch.randn_like(image)).clamp(0, 1)
    worse = (image + 0.3 * torch.randn_like(image)).clamp(0, 1)
    for metric in (foreground_psnr, foreground_ssim):
        assert metric(image, image, alpha) > metric(noisy, image, alpha) > metric(worse, image, alpha)
    assert mask_iou(image, image) == 1


@pytest.mark.parametrize("size", [(48, 48), (33, 70)])
def test_ssim_on_the_animal_is_that_of_torchmetrics_over_the_scored_region(size: tuple[int, int]) -> None:
    g = torch.Generator().manual_seed(0)
    truth = torch.rand(2, 3, *size, generator=g) * 0.4
    image, alpha = (truth + 0.1 * torch.randn(truth.shape, generator=g)).clamp(0, 0.9), torch.ones(2, 1, *size)
    _, whole = structural_similarity_index_measure(
        image.double(), truth.double(), data_range=1.0, reduction="none", return_full_image=True
    )
    assert torch.allclose(foreground_ssim(image, truth, alpha).double(), whole.mean((1, 2, 3)), atol=1e-7)
