"""`mvfl base train`: every stage at a tiny size, with the settings type that the recorded file has."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from diffusers import AutoencoderKL

from mvfl.base.autoencoder import autoencoder_quality
from mvfl.base.record import missing_parts
from mvfl.base.train import BaseTraining, load_base_training, load_pictures, score_multiview, train_base
from mvfl.config.workflow import EMBEDDED
from mvfl.data.render import render_sample
from mvfl.data.samples import Manifest
from mvfl.geometry.rig import load_rig
from mvfl.gslrm.checkpoint import load_gslrm
from mvfl.gslrm.training import evaluate_views, load_views
from mvfl.mvdiffusion.pipeline import MultiViewPipeline
from mvfl.prompts import embed_prompts

ROOT = Path(__file__).parents[2]


def test_the_recorded_settings_are_valid() -> None:
    settings = load_base_training(ROOT / "configs" / "embedded_base.yaml")
    assert "grey" not in settings.dataset.coats, "the demo's animal must be new to the base"


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Four of the animals that the card was measured on; a sample depends on (seed, index) alone."""
    folder, settings = tmp_path_factory.mktemp("held_out"), load_base_training(ROOT / "configs" / "embedded_base.yaml").dataset
    names = [render_sample(settings, folder, settings.train + i) for i in range(4)]
    return Manifest("held_out", folder, load_rig(settings.rig, settings.image_size), settings.image_size, [], names, "")


def test_the_shipped_weights_give_the_figures_of_their_card(held_out: Manifest) -> None:
    card = json.loads((EMBEDDED / "card.json").read_text())["held_out"]
    vae = AutoencoderKL.from_pretrained(EMBEDDED / "vae")
    quality = autoencoder_quality(vae, load_pictures(held_out, held_out.val), torch.device("cpu"))
    assert quality["foreground_psnr"] == pytest.approx(card["autoencoder"]["foreground_psnr"], abs=1.0)
    assert card["autoencoder"]["foreground_psnr"] >= 24
    model = load_gslrm(EMBEDDED / "gslrm" / "gslrm.safetensors", held_out.image_size)
    scores = []
    for name in held_out.val:
        views = load_views(held_out, name)
        seen, wanted = views.select(slice(held_out.views)), views.select(slice(held_out.views, None))
        scores.append(evaluate_views(model, seen, wanted, "torch")[1]["foreground_psnr"])
    assert np.mean(scores) == pytest.approx(card["gslrm"]["foreground_psnr"], abs=1.0)
    assert card["gslrm"]["foreground_psnr"] >= 22


def test_the_shipped_unet_draws_what_its_card_says(held_out: Manifest, tmp_path: Path) -> None:
    settings = load_base_training(ROOT / "configs" / "embedded_base.yaml")
    card = json.loads((EMBEDDED / "card.json").read_text())["held_out"]["multiview"]
    assert all(card["model"][k] > card["nearest"][k] for k in ("psnr", "ssim", "iou")) and card["slot_accuracy"] >= 0.95
    embed_prompts(settings.multiview.prompt_style, EMBEDDED, tmp_path)
    pipeline = MultiViewPipeline.from_pretrained(EMBEDDED)
    # Other animals stand in for the training set: only the model's own figures are compared.
    manifest = replace(held_out, train=held_out.val)
    scores = score_multiview(settings, manifest, pipeline, tmp_path / "clr_embeds.pt", tmp_path / "grid.png")
    print(scores)
    assert scores["slot_accuracy"] >= 0.85
    for metric, tolerance in {"psnr": 1.5, "ssim": 0.1, "iou": 0.1}.items():
        assert scores["model"][metric] == pytest.approx(card["model"][metric], abs=tolerance)


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
    content["gslrm"] |= {
        "steps": 1,
        "batch_size": 1,
        "target_views": 2,
        "mixed_precision": "no",
        "warmup_steps": 0,
        "compile": False,
    }
    content["evaluation_samples"] = 2
    train_base(BaseTraining.model_validate(content), tmp_path / "work", tmp_path / "base", 2)
    assert missing_parts(tmp_path / "base") == []
    card = json.loads((tmp_path / "base" / "card.json").read_text())
    assert set(card["held_out"]) == {"autoencoder", "multiview", "gslrm"}
    assert "nearest" in card["held_out"]["multiview"] and card["megabytes"] < 24
