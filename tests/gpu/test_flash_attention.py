"""FlashAttention-4 against torch's attention; needs the extra `fast` and a Hopper card or newer, skipped elsewhere."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mvfl.runtime.attention import LONG, attend, flash_attention_4


@pytest.mark.gpu
@pytest.mark.skipif(flash_attention_4() is None, reason="compares with FlashAttention-4, which is not at hand")
def test_flash_attention_agrees_with_torch_forwards_and_backwards() -> None:
    g = torch.Generator("cuda").manual_seed(0)
    shape = (1, 4, LONG + 2, 64)
    q, k, v, upstream = (torch.randn(shape, generator=g, device="cuda", dtype=torch.bfloat16) for _ in range(4))
    results = []
    for run in (attend, F.scaled_dot_product_attention):
        leaves = [t.clone().requires_grad_() for t in (q, k, v)]
        out = run(*leaves)
        out.backward(upstream)
        results.append([out.detach(), *(leaf.grad for leaf in leaves)])
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine.float(), theirs.float(), atol=2e-2, rtol=2e-2)
