"""`mvfl base train`: every stage at a tiny size, with the settings type that the recorded file has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from mvfl.base.record import missing_parts
from mvfl.base.train import BaseTraining, load_base_training, train_base

ROOT = Path(__file__).parents[2]


def test_the_recorded_settings_are_valid() -> None:
    settings = load_base_training(ROOT / "configs" / "embedded_base.yaml")
    assert "grey" not in settings.dataset.coats, "the demo's animal must be new to the base"


@pytest.mark.slow
def test_all_stages_make_a_whole_base_with_a_card(tmp_path: Path) -> None:
    content = yaml.safe_load((ROOT / "configs" / "embedded_base.yaml").read_text())
    content["dataset"] |= {"image_size": 32, "train": 4, "val": 2, "extra_views": 1}
    content["architecture"] |= {
        "latent_channels": 4, "autoencoder_channels": [16, 32], "unet_channels": [32, 32], "gslrm_width": 64, "gslrm_layers": 1,
    }  # fmt: skip
    content["autoencoder"] |= {"steps": 2, "batch_size": 4, "compile": False}
    content["multiview"]["training"] |= {"steps": 2, "batch_size": 2, "mixed_precision": "no", "compile": False, "log_every": 1}
    content["sampling"] |= {"steps": 2, "batch_size": 2}
    content["gslrm"] |= {"steps": 1, "batch_size": 1, "target_views": 2, "mixed_precision": "no", "warmup_steps": 0}
    content["evaluation_samples"] = 2
    train_base(BaseTraining.model_validate(content), tmp_path / "work", tmp_path / "base", 2)
    assert missing_parts(tmp_path / "base") == []
    card = json.loads((tmp_path / "base" / "card.json").read_text())
    assert set(card["held_out"]) == {"autoencoder", "multiview", "gslrm"}
    assert "nearest" in card["held_out"]["multiview"] and card["megabytes"] < 24
