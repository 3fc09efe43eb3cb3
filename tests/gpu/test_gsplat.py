"""gsplat against the torch rasteriser; needs CUDA, skipped elsewhere."""

from __future__ import annotations

import pytest
import torch
from test_rendering import two_objects

from mvfl.gslrm.gaussians import Gaussians
from mvfl.gslrm.rendering import render_objects


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="compares with gsplat, which needs CUDA")
@pytest.mark.parametrize("sh_degree", [0, 1])
def test_the_reference_agrees_with_gsplat(sh_degree: int) -> None:
    results = []
    for renderer in ("torch", "gsplat"):
        leaves, c2w, intrinsics = two_objects("cuda", sh_degree)
        out = render_objects([Gaussians(*fields) for fields in leaves], c2w, intrinsics, 96, 96, renderer)
        (out.images.square().mean() + out.alphas.mean()).backward()
        results.append((out.images.detach(), out.alphas.detach(), [leaf.grad for fields in leaves for leaf in fields]))
    for a, b in zip(results[0][:2], results[1][:2], strict=True):
        print(f"largest difference in value {float((a - b).abs().max()):.2e}")
        torch.testing.assert_close(a, b, atol=1e-3, rtol=0)
    for a, b in zip(results[0][2], results[1][2], strict=True):
        print(f"relative difference in gradient {float((a - b).norm() / b.norm()):.2e}")
        assert float((a - b).norm() / b.norm()) < 1e-2
