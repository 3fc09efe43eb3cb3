"""Export in the original program's file layout: what comes back is what was written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from parity import parity_file
from safetensors.torch import load_file

from mvfl.config.experiment import Generation
from mvfl.config.gslrm import GslrmFinetuning
from mvfl.gslrm.checkpoint import load_gslrm
from mvfl.mvdiffusion.unet import build_unet, load_unet, with_view_conditioning
from mvfl.records.base import BaseRecord
from mvfl.runtime.files import InputError
from mvfl.stages.original import write_original
from mvfl.stages.reconstructor import Learned


@pytest.fixture
def experiment(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished experiment whose network is told its cameras by prompts alone, as the original's is."""
    unet = build_unet(json.loads(parity_file("unet_tiny/config.json").read_text())["constructor"])
    unet.save_pretrained(tmp_path / "checkpoint-4" / "unet")
    (tmp_path / "clr_embeds.pt").write_bytes(b"prompts")
    weights = BaseRecord.read(tiny_base).gslrm
    assert weights is not None
    learned = Learned(
        Generation(), GslrmFinetuning(), tmp_path / "checkpoint-4", tiny_base, tmp_path, tmp_path / "clr_embeds.pt", weights
    )
    monkeypatch.setattr("mvfl.stages.original.read_experiment", lambda folder: learned)
    return tmp_path


def test_what_was_exported_comes_back_as_it_was(experiment: Path, tiny_base: Path) -> None:
    checkpoint = write_original(experiment, experiment / "out")
    pipeline = experiment / "out" / "mvdiffusion" / "pipeckpts"
    assert {"model_index.json", "unet", "vae", "image_encoder", "scheduler"} <= {p.name for p in pipeline.iterdir()}
    config = json.loads((pipeline / "unet" / "config.json").read_text())
    assert config["_class_name"] == "UNetMV2DConditionModel" and config["mid_block_type"] == "UNetMidBlockMV2DCrossAttn"
    mine, theirs = (load_unet(f).state_dict() for f in (experiment / "checkpoint-4" / "unet", pipeline / "unet"))
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine)
    assert (experiment / "out" / "clr_embeds.pt").read_bytes() == b"prompts"
    assert checkpoint.name == f"ckpt_{0:016d}.pt"
    content = torch.load(checkpoint, weights_only=True)
    assert set(content) == {"model", "fwdbwd_pass_step", "param_update_step"}
    before = {k.removeprefix("model."): v for k, v in load_file(BaseRecord.read(tiny_base).gslrm).items()}
    assert content["model"].keys() == before.keys() and all(torch.equal(content["model"][k], v.float()) for k, v in before.items())
    assert load_gslrm(experiment / "out" / "gslrm" / checkpoint.name, 32)
    with pytest.raises(InputError, match="exists; name another folder"):
        write_original(experiment, experiment / "out")


def test_a_network_that_is_told_rays_has_no_copy_in_that_layout(experiment: Path) -> None:
    told = with_view_conditioning(load_unet(experiment / "checkpoint-4" / "unet"), "rays")
    told.save_pretrained(experiment / "checkpoint-4" / "unet")
    with pytest.raises(InputError, match="view_conditioning rays: it has inputs that the original program does not feed"):
        write_original(experiment, experiment / "out")
    assert not (experiment / "out").exists()
