"""Attention over long sequences by the fastest kernel at hand."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mvfl.runtime.progress import say

LONG = 4096  # tokens from which FlashAttention-4 beats cuDNN on an H100 (docs/performance.md)
HOPPER = 9  # major compute capability of the oldest cards that it runs on


@functools.cache
def flash_attention_4() -> Callable[..., Any] | None:
    """The kernel of the extra `fast`, where it is installed and this card can run it."""
    if not torch.cuda.is_available() or torch.cuda.get_device_capability()[0] < HOPPER:
        return None
    if importlib.util.find_spec("flash_attn") is None or importlib.util.find_spec("flash_attn.cute") is None:
        return None
    try:
        from flash_attn.cute import flash_attn_func
    except Exception as error:  # its compiler is a package of its own, which can be missing or of another version
        say(f"Warning: FlashAttention-4 is installed but cannot be loaded ({error}); torch's own attention is used.")
        return None
    return flash_attn_func


def attend(
    query: Float[Tensor, "b h q d"], key: Float[Tensor, "b h s d"], value: Float[Tensor, "b h s d"]
) -> Float[Tensor, "b h q d"]:
    """softmax(query key^T / sqrt(d)) value, every query over all keys.

    In half precision on long sequences by FlashAttention-4 (Dao-AILab) where the extra `fast` is installed; else as torch chooses.

    Args:
        query, key, value: [batch, head, token, width].
    """
    half = query.dtype in (torch.bfloat16, torch.float16)
    if half and query.shape[2] >= LONG and not torch.compiler.is_compiling() and (kernel := flash_attention_4()):
        out = kernel(*(t.transpose(1, 2) for t in (query, key, value)))
        return (out[0] if isinstance(out, tuple) else out).transpose(1, 2)
    return F.scaled_dot_product_attention(query, key, value)
