"""Latents: every variant of a picture is encoded, and tints come from the seed alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from mvfl.config.experiment import Augmentation
from mvfl.data.latents import LatentCache
from mvfl.data.pictures import composite
from mvfl.mvdiffusion.encoding import tinted, variants_of


def test_a_tint_leaves_the_background_alone() -> None:
    rgba = torch.rand(6, 4, 8, 8)
    rgba[:, 3] = (rgba[:, 3] > 0.5).float()
    out = composite(tinted(rgba, 1.1, 0.9), 1.0)
    outside = rgba[:, 3:].expand(-1, 3, -1, -1) == 0
    assert torch.equal(out[outside], torch.ones_like(out[outside]))
    torch.testing.assert_close(tinted(rgba, 1.0, 1.0), rgba)


def test_the_latent_cache_holds_every_variant(tiny_latents: Path) -> None:
    train, val = LatentCache.open(tiny_latents, "train"), LatentCache.open(tiny_latents, "val")
    assert train.moments.shape == (4, 2, 6, 8, 16, 16) and train.embeds.shape == (4, 2, 6, 64)
    assert val.variants == 1 and len(val) == 2
    assert not np.array_equal(train.moments[:, 0], train.moments[:, 1])


def test_tints_come_from_the_seed_alone() -> None:
    a = Augmentation(backgrounds=["white", "gray"], tints=3)
    assert variants_of(a, 1, 5) == variants_of(a, 1, 5) != variants_of(a, 2, 5)
    assert variants_of(a, 1, 5)[:2] == [(1.0, 1.0, 1.0), (0.5, 1.0, 1.0)]
