"""GS-LRM checkpoints: both formats are read, and what is missing or incomplete is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mvfl.gslrm.checkpoint import load_gslrm, read_state, save_gslrm
from mvfl.gslrm.model import Gslrm, GslrmConfig
from mvfl.runtime.files import InputError


def test_gslrm_checkpoints_in_both_formats_load_and_loss_networks_are_ignored(tmp_path: Path) -> None:
    model = Gslrm(GslrmConfig(image_size=16, width=64, layers=1))
    state = {**model.state_dict(), "loss_calculator.perceptual_loss_module.net.conv1.weight": torch.zeros(2)}
    torch.save({"model": state, "optimizer": {}, "fwdbwd_pass_step": 7, "param_update_step": 5}, tmp_path / "a.pt")
    save_gslrm(model, tmp_path / "b.safetensors", 5, 7)
    for name in ("a.pt", "b.safetensors"):
        loaded = load_gslrm(tmp_path / name, 16)
        assert all(torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), model.state_dict().values(), strict=True))
        assert read_state(tmp_path / name)[1]["fwdbwd_pass_step"] == 7
    save_gslrm(load_gslrm(tmp_path / "b.safetensors", 16), tmp_path / "c.safetensors", 5, 7)
    assert (tmp_path / "b.safetensors").read_bytes() == (tmp_path / "c.safetensors").read_bytes()


def test_a_gslrm_checkpoint_that_is_missing_or_incomplete_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="never starts from random weights by mistake"):
        load_gslrm(tmp_path / "none.pt", 16)
    state = Gslrm(GslrmConfig(image_size=16, width=64, layers=1)).state_dict()
    del state["transformer_layers.0.norm2.weight"]
    torch.save({"model": state}, tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"missing: transformer_layers\.0\.norm2\.weight"):
        load_gslrm(tmp_path / "a.pt", 16)
    torch.save({"model": {"x": torch.zeros(1)}}, tmp_path / "a.pt")
    with pytest.raises(InputError, match="not a GS-LRM checkpoint"):
        load_gslrm(tmp_path / "a.pt", 16)
