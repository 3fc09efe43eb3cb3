"""`clr_embeds.pt` and its `metadata.json`: the text embedding of each slot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mvfl.config.strict import PromptStyle
from mvfl.records.record import Record
from mvfl.runtime.files import InputError
from mvfl.runtime.reading import require_file
from mvfl.runtime.weights import read_pickled


class PromptMetadata(Record):
    """What a prompt file holds."""

    remedy = "run the `prompts` target first"

    style: PromptStyle
    views: list[str]
    color_prompts: list[str]
    normal_prompts: list[str]
    shape: list[int]
    dtype: str
    encoder: dict[str, Any]
    sha256: str


def read_prompts(path: Path, views: int, width: int) -> Float[Tensor, "view token channel"]:
    """Read `clr_embeds.pt` and check that it fits a UNet.

    Args:
        path: the file.
        views: prompt words.
        width: of its cross attention.

    Raises:
        InputError: missing, not a tensor, another width or number of views, not finite, or zeros.
    """
    remedy = "encode the prompts again (`mvfl prompts`)"
    require_file(path, "run the `prompts` target first")
    embeds = read_pickled(path, "prompt embeddings")
    if (
        not isinstance(embeds, Tensor)
        or embeds.ndim != 3
        or len(embeds) != views
        or not embeds.numel()
        or not embeds.is_floating_point()
    ):
        raise InputError(f"{path} must hold one tensor [{views}, tokens, {width}] of floats; {remedy}.")
    if not bool(torch.isfinite(embeds).all()):
        raise InputError(f"{path} holds NaN or infinity, finite numbers are needed; {remedy}.")
    if embeds.shape[2] != width:
        raise InputError(
            f"{path} is {embeds.shape[2]} wide, the UNet's cross attention needs {width}. It comes from another text "
            "encoder: encode the prompts with the base's own text encoder (`mvfl prompts`)."
        )
    if not bool(embeds.flatten(1).any(1).all()):
        raise InputError(f"{path} holds a prompt of zeros only: the model would be told nothing; {remedy}.")
    return embeds.float()
