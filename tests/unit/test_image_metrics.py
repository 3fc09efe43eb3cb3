"""Picture metrics on the animal."""

from __future__ import annotations

import torch

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
