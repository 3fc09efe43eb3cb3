"""Cross-view self-attention: one processor on the stock `UNet2DConditionModel`, no extra parameters.

Only the keys and values seen by `attn1` change; `attn2` (text) stays per view.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, cat

from mvfl.config.strict import AttentionMode


def with_first_view(
    tokens: Float[Tensor, "object_view head token width"], views: int
) -> Float[Tensor, "object_view head seen width"]:
    """Keys or values that each view may attend to: those of slot 0 and its own (as published; slot 0 sees itself twice).

    Args:
        tokens: projected per view, view index fastest in the batch.
        views: views per object; objects never mix.
    """
    if tokens.shape[0] % views:
        raise ValueError(f"A batch of {tokens.shape[0]} views is not a multiple of {views} views per object.")
    grouped = rearrange(tokens, "(b v) h t d -> b v h t d", v=views)
    return rearrange(cat([grouped[:, :1].expand_as(grouped), grouped], dim=3), "b v h s d -> (b v) h s d")


class MultiViewAttnProcessor:
    """Scaled-dot-product self-attention whose keys and values come from several views of one object.

    Args:
        views: per object.
        mode: `sparse` = slot 0 and the view itself (as published), `dense` = all views of the object, `per_view` = itself only.
    """

    def __init__(self, views: int, mode: AttentionMode) -> None:
        self.views = views
        self.mode: AttentionMode = mode

    def __call__(self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **_: Any) -> Tensor:
        """Attend over [object x view, token, channel]; the interface is that of diffusers' processors."""
        if encoder_hidden_states is not None:
            raise ValueError("MultiViewAttnProcessor is for self-attention (attn1); leave attn2 to the stock processor.")
        split = lambda x: rearrange(x, "n t (h d) -> n h t d", h=attn.heads)  # noqa: E731
        query, key, value = (split(layer(hidden_states)) for layer in (attn.to_q, attn.to_k, attn.to_v))
        if self.mode == "dense":
            # The queries of one object share their keys: fold the views into the sequence instead of copying keys.
            fold = lambda x: rearrange(x, "(b v) h t d -> b h (v t) d", v=self.views)  # noqa: E731
            out = F.scaled_dot_product_attention(fold(query), fold(key), fold(value))
            out = rearrange(out, "b h (v t) d -> (b v) t (h d)", v=self.views)
        else:
            if self.mode == "sparse":
                key, value = (with_first_view(x, self.views) for x in (key, value))
            out = F.scaled_dot_product_attention(query, key, value)
            out = rearrange(out, "n h t d -> n t (h d)")
        return attn.to_out[1](attn.to_out[0](out))


def set_attention_mode(unet: UNet2DConditionModel, views: int, mode: AttentionMode) -> None:
    """Give every `attn1` of a stock UNet the multi-view processor and every `attn2` the stock one."""
    unet.set_attn_processor(
        {name: MultiViewAttnProcessor(views, mode) if ".attn1." in name else AttnProcessor2_0() for name in unet.attn_processors}
    )
