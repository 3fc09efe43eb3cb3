"""Long attention takes the fast kernel only where it is there, allowed and faster; its results are those of torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mvfl.runtime import attention


def tokens(count: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(count)
    return tuple(torch.randn(1, 2, count, 8, generator=g).to(dtype) for _ in range(3))  # type: ignore[return-value]


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """A stand-in with the kernel's interface, [batch, token, head, width] in and out; the shapes it was called with."""
    calls: list[tuple[int, ...]] = []

    def run(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, None]:
        calls.append(tuple(q.shape))
        return F.scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v))).transpose(1, 2), None

    given: Callable[[], Any] = lambda: run  # noqa: E731
    monkeypatch.setattr(attention, "flash_attention_4", given)
    monkeypatch.setattr(attention, "LONG", 64)
    return calls


def test_long_sequences_in_half_precision_take_the_fast_kernel(kernel: list[tuple[int, ...]]) -> None:
    q, k, v = tokens(64, torch.bfloat16)
    torch.testing.assert_close(attention.attend(q, k, v), F.scaled_dot_product_attention(q, k, v))
    assert kernel == [(1, 64, 2, 8)]


@pytest.mark.parametrize(("count", "dtype"), [(63, torch.bfloat16), (64, torch.float32)])
def test_short_sequences_and_float32_stay_with_torch(kernel: list[tuple[int, ...]], count: int, dtype: torch.dtype) -> None:
    q, k, v = tokens(count, dtype)
    assert torch.equal(attention.attend(q, k, v), F.scaled_dot_product_attention(q, k, v))
    assert kernel == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="tells of machines without CUDA")
def test_without_a_gpu_there_is_no_fast_kernel() -> None:
    assert attention.flash_attention_4() is None
