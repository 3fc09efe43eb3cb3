"""Weights: loaded strictly or not at all; a learned reference path is never zeroed; saving and loading change nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mvfl.mvdiffusion.pipeline import MultiViewPipeline
from mvfl.mvdiffusion.unet import build_unet, load_unet, reference_path_norm, widen_conv_in
from mvfl.runtime.files import InputError


def test_only_a_single_image_unet_is_widened_and_a_learned_reference_path_is_never_zeroed(tiny_pipeline: MultiViewPipeline) -> None:
    assert widen_conv_in(tiny_pipeline.unet) is tiny_pipeline.unet
    assert reference_path_norm(tiny_pipeline.unet) > 0.1
    single = build_unet({**tiny_pipeline.unet.config, "in_channels": 4})
    wide = widen_conv_in(single)
    assert torch.equal(wide.conv_in.weight[:, :4], single.conv_in.weight)
    assert reference_path_norm(wide) == 0


def test_a_base_whose_reference_path_was_zeroed_is_refused(tiny_base: Path) -> None:
    unet = load_unet(tiny_base.parent / "pipeline" / "unet")
    with torch.no_grad():
        unet.conv_in.weight[:, unet.config.out_channels :] = 0
    with pytest.raises(InputError, match=r"their weights are gone \(norm 0\.0e\+00\)"):
        widen_conv_in(unet)


def test_weights_that_do_not_fit_are_listed_in_one_error(tiny_base: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_base.parent / "pipeline" / "unet", tmp_path / "unet")
    file = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    state["surplus"] = torch.zeros(2)
    state["conv_in.weight"] = state["conv_in.weight"][:, :4].contiguous()
    del state["conv_out.bias"]
    save_file(state, file)
    with pytest.raises(InputError) as caught:
        load_unet(tmp_path / "unet")
    for part in ("3 tensors", "missing: conv_out.bias", "unexpected: surplus", "shape of conv_in.weight"):
        assert part in str(caught.value)
    file.unlink()
    with pytest.raises(InputError, match="no substitute weights"):
        load_unet(tmp_path / "unet")


def test_saving_and_loading_a_pipeline_gives_identical_files(tiny_base: Path, tmp_path: Path) -> None:
    MultiViewPipeline.from_pretrained(tiny_base.parent / "pipeline").save_pretrained(tmp_path / "a")
    MultiViewPipeline.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b")
    files = [f.relative_to(tmp_path / "a") for f in (tmp_path / "a").rglob("*") if f.is_file()]
    assert len(files) >= 14
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file
