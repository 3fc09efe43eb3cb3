"""Pictures: their masks, and how they are laid over a background."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from parity import parity_tensors
from PIL import Image

from mvfl.config.strict import Background
from mvfl.data.pictures import BACKGROUND_LEVEL, composite, read_rgba, rgba_tensor
from mvfl.data.rodent.sampling import make_sample
from mvfl.geometry.rig import load_rig
from mvfl.runtime.files import InputError


def test_an_opaque_picture_over_white_gets_the_mask_of_the_same_picture_with_alpha(tmp_path: Path) -> None:
    picture = Image.fromarray(make_sample((3, 0), load_rig("ring60", 128).cameras[:1]).pictures[0])
    picture.save(tmp_path / "cut.png")
    cut = read_rgba(tmp_path / "cut.png", 128)
    white = Image.new("RGBA", (128, 128), "white")
    white.alpha_composite(picture)
    white.convert("RGB").save(tmp_path / "opaque.png")
    seen = read_rgba(tmp_path / "opaque.png", 128)
    a, b = cut[..., 3] > 127, seen[..., 3] > 127
    assert (a & b).sum() / (a | b).sum() > 0.9


def test_an_opaque_picture_over_another_background_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (128, 128), (90, 60, 30)).save(tmp_path / "brown.png")
    with pytest.raises(InputError, match="no alpha channel and no white background"):
        read_rgba(tmp_path / "brown.png", 128)


@pytest.mark.parametrize("background", ["white", "black", "gray"])
def test_compositing_is_that_of_the_original_loader(background: Background, tmp_path: Path) -> None:
    stored = parity_tensors("data_tiny/datasets.safetensors")
    pictures = stored["rgba_u8"][:6].numpy()
    tables = {k: v for k, v in stored.items() if k.startswith(f"mv.{background}.") and v.ndim == 4}
    assert tables
    for wanted in tables.values():
        size = wanted.shape[-1]
        read = []
        for i, picture in enumerate(pictures[: len(wanted)]):
            Image.fromarray(picture).save(tmp_path / f"{i}.png")
            read.append(read_rgba(tmp_path / f"{i}.png", size))
        got = composite(rgba_tensor(read), BACKGROUND_LEVEL[background])
        torch.testing.assert_close(got, wanted, atol=1e-6, rtol=0)
