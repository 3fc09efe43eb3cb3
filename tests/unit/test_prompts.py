"""Prompts: the guide's exact strings, what their files hold, and files that do not fit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mvfl.config.prompt_styles import STYLES
from mvfl.layout import Prompts
from mvfl.mvdiffusion.unet import build_unet
from mvfl.records.prompts import read_prompts
from mvfl.runtime.files import InputError
from mvfl.stages.prompts import embed_prompts

VIEWS = {
    "facelift": "front, front_right, right, back, left, front_left",
    "mouse_elevated": "top-front, top-front-right, top-right, top-back, top-left, top-front-left",
    **dict.fromkeys(("realistic", "hybrid", "simple"), "front, front-right, right, back, left, front-left"),
}
COLOUR = {
    "facelift": "a rendering image of 3D models, {} view, color map.",
    "mouse_elevated": "a rendering image of a 3D model, {} view, from above at an angle, color map.",
    "realistic": "a photograph of a mouse, {} view, from above at an angle.",
    "hybrid": "a multi-view image of a mouse, {} view, elevated camera.",
    "simple": "a mouse, {} view, top-down angle.",
}
NORMAL = {
    "facelift": "a rendering image of 3D models, {} view, normal map.",
    "mouse_elevated": "a rendering image of a 3D model, {} view, from above at an angle, normal map.",
    "realistic": "a depth image of a mouse, {} view, from above at an angle.",
    "hybrid": "a normal map of a mouse, {} view, elevated camera.",
    "simple": "a mouse depth map, {} view, top-down angle.",
}


@pytest.mark.parametrize("style", VIEWS)
def test_every_string_of_a_style_is_that_of_the_guide(style: str) -> None:
    assert set(STYLES) == set(VIEWS)
    words = VIEWS[style].split(", ")
    assert list(STYLES[style].views) == words
    assert STYLES[style].prompts == [COLOUR[style].format(w) for w in words]
    assert STYLES[style].normal_prompts == [NORMAL[style].format(w) for w in words]


def test_prompt_files_hold_what_the_guide_says(tiny_base: Path, tmp_path: Path) -> None:
    written = Prompts(tmp_path / "p")
    embed_prompts("mouse_elevated", tiny_base.parent / "pipeline", written.folder, width=64)
    embeds = torch.load(tmp_path / "p" / "clr_embeds.pt", weights_only=True)
    assert embeds.shape == (6, 77, 64) and embeds.dtype == torch.float16 and not embeds.requires_grad
    metadata = json.loads(written.metadata.read_text())
    assert metadata["views"][0] == "top-front"
    assert metadata["color_prompts"][1] == (
        "a rendering image of a 3D model, top-front-right view, from above at an angle, color map."
    )
    matrix = np.array(json.loads(written.similarity.read_text())["views"]["cosine"])
    assert matrix.shape == (6, 6) and np.allclose(np.diag(matrix), 1, atol=1e-3) and matrix[0, 3] < 0.999
    assert written.picture.stat().st_size > 1000


def test_a_text_encoder_of_another_width_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is 64 wide, the UNet's cross attention needs 1024"):
        embed_prompts("simple", tiny_base.parent / "pipeline", tmp_path / "p", width=1024)
    with pytest.raises(InputError, match="There are no substitutes"):
        embed_prompts("simple", tmp_path, tmp_path / "p", width=1024)


def test_prompts_of_another_width_or_missing_are_refused_with_the_reason(tmp_path: Path) -> None:
    torch.save(torch.zeros(6, 77, 768).half(), tmp_path / "clr_embeds.pt")
    with pytest.raises(InputError, match="is 768 wide, the UNet's cross attention needs 64"):
        read_prompts(tmp_path / "clr_embeds.pt", 6, 64)
    with pytest.raises(InputError, match="does not exist; run the `prompts` target"):
        read_prompts(tmp_path / "none.pt", 6, 64)
    torch.save(torch.full((6, 77, 64), torch.nan), tmp_path / "clr_embeds.pt")
    with pytest.raises(InputError, match="finite"):
        read_prompts(tmp_path / "clr_embeds.pt", 6, 64)


def test_the_published_prompt_file_of_width_1024_fits_the_full_size_unet(tmp_path: Path) -> None:
    with torch.device("meta"):
        unet = build_unet(
            {"sample_size": 64, "in_channels": 8, "out_channels": 4, "cross_attention_dim": 1024, "block_out_channels": [32],
             "down_block_types": ["CrossAttnDownBlockMV2D"], "mid_block_type": "UNetMidBlockMV2DCrossAttn",
             "up_block_types": ["CrossAttnUpBlockMV2D"], "layers_per_block": 1, "attention_head_dim": [1]}
        )  # fmt: skip
    torch.save(torch.ones(6, 77, 1024, dtype=torch.float16), tmp_path / "clr_embeds.pt")
    embeds = read_prompts(tmp_path / "clr_embeds.pt", unet.config.num_views, unet.config.cross_attention_dim)
    assert embeds.shape == (6, 77, 1024)
