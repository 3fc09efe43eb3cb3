"""The embedded base: its settings, the figures of its card, and the whole workflow that makes one, at a tiny size."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from diffusers import AutoencoderKL
from running import snakemake
from safetensors.torch import load_file

from mvfl.config.bases import EMBEDDED
from mvfl.config.datasets import RodentDataset
from mvfl.config.load import load_config
from mvfl.config.workflow import WorkflowConfig
from mvfl.data.pictures import all_pictures
from mvfl.data.render import render_sample
from mvfl.geometry.rig import load_rig
from mvfl.gslrm.checkpoint import load_gslrm
from mvfl.gslrm.scoring import evaluate_views
from mvfl.gslrm.views import load_views
from mvfl.layout import Layout, Prompts
from mvfl.mvdiffusion.autoencoder import autoencoder_quality
from mvfl.mvdiffusion.pipeline import MultiViewPipeline
from mvfl.mvdiffusion.sampling import Sampler
from mvfl.records.base import missing_parts
from mvfl.records.manifest import Manifest
from mvfl.records.prompts import read_prompts
from mvfl.stages.prompts import embed_prompts
from mvfl.stages.reconstructor import _usual_choice
from mvfl.verdict.baselines import baselines
from mvfl.verdict.scores import load_truth, score_views, slot_assignment

ROOT = Path(__file__).parents[2]
NAME, SHIPPED = "embedded_base", "embedded_any_rig"
CARD = json.loads((EMBEDDED / "card.json").read_text())["held_out"]


@pytest.fixture(scope="module")
def config() -> WorkflowConfig:
    return load_config([ROOT / "workflow_config.yaml", ROOT / "configs" / "embedded_base.yaml"])


@pytest.fixture(scope="module")
def shipped() -> WorkflowConfig:
    """How the weights that ship were trained on."""
    return load_config([ROOT / "workflow_config.yaml", ROOT / "configs" / f"{SHIPPED}.yaml"])


@pytest.fixture(scope="module")
def rodents(shipped: WorkflowConfig) -> RodentDataset:
    dataset = shipped.datasets[shipped.experiments[SHIPPED].dataset]
    assert isinstance(dataset, RodentDataset)
    return dataset


@pytest.fixture(scope="module")
def before_any_cameras(rodents: RodentDataset) -> RodentDataset:
    """As the card's second table."""
    return rodents.model_copy(update={"any_rig": 1.0})


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory, before_any_cameras: RodentDataset) -> Manifest:
    """Four of the animals that the card was measured on; a sample depends on (seed, index) alone."""
    folder, rodents = tmp_path_factory.mktemp("held_out"), before_any_cameras
    names = [render_sample(rodents, folder, rodents.train + i) for i in range(4)]
    return Manifest("held_out", folder, load_rig(rodents.rig, rodents.image_size), rodents.image_size, [], names, "")


def test_the_recorded_settings_make_a_base_of_other_animals_than_the_demos(config: WorkflowConfig, rodents: RodentDataset) -> None:
    assert config.experiment == NAME and config.bases[config.experiments[NAME].base].kind == "scratch"
    demo = load_config([ROOT / "workflow_config.yaml", ROOT / "configs" / "demo.yaml"]).datasets["grey_mouse"]
    many = config.datasets[config.experiments[NAME].dataset]
    assert isinstance(demo, RodentDataset) and isinstance(many, RodentDataset)
    assert len({demo.seed, rodents.seed, many.seed}) == 3, "every animal is drawn from (seed, index)"
    assert min(many.any_rig, rodents.any_rig) >= 0.5, "at least half of the animals stand before cameras of their own"


def test_the_shipped_weights_give_the_figures_of_their_card(held_out: Manifest) -> None:
    vae = AutoencoderKL.from_pretrained(EMBEDDED / "vae")
    quality = autoencoder_quality(vae, all_pictures(held_out, held_out.val), torch.device("cpu"))
    assert quality["foreground_psnr"] == pytest.approx(CARD["any"]["autoencoder"]["foreground_psnr"], abs=2.0)
    model = load_gslrm(EMBEDDED / "gslrm" / "gslrm.safetensors", held_out.image_size)
    scores = []
    for name in held_out.val:
        views = load_views(held_out, name)
        seen, wanted = views.select(slice(held_out.views)), views.select(slice(held_out.views, None))
        scores.append(evaluate_views(model, seen, wanted, "torch")[1])
    for metric, tolerance in {"foreground_psnr": 2.0, "mask_iou": 0.08}.items():
        assert np.mean([s[metric] for s in scores]) == pytest.approx(CARD["any"]["gslrm"][metric], abs=tolerance)


def test_the_card_names_what_the_weights_are_worth_on_the_ring_and_on_any_rig() -> None:
    for kind, slots in (("ring60", 0.95), ("any", 0.6)):
        card = CARD[kind]["multiview"]
        assert card["slot_accuracy"] >= slots
        assert all(card["model"][k] > max(card["blank"][k], card["copy"][k]) for k in ("psnr", "ssim", "iou"))
    assert CARD["any"]["gslrm"]["mask_iou"] >= 0.8


def test_the_shipped_base_is_known_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(EMBEDDED)
    assert _usual_choice(tmp_path / "link", "rays").sampling.guidance == _usual_choice(EMBEDDED, "rays").sampling.guidance == 2.0
    assert _usual_choice(tmp_path, "rays").sampling.guidance == 3.0


def test_the_shipped_unet_samples_what_its_card_says(shipped: WorkflowConfig, held_out: Manifest, tmp_path: Path) -> None:
    experiment, card = shipped.experiments[SHIPPED], CARD["any"]["multiview"]
    pipeline = MultiViewPipeline.from_pretrained(EMBEDDED)
    width = pipeline.unet.config.cross_attention_dim
    embed_prompts(experiment.prompt_style, EMBEDDED, tmp_path, width)
    prompts = read_prompts(Prompts(tmp_path).embeds, 6, width)
    pairs = [(name, i % held_out.views) for i, name in enumerate(held_out.val)]
    truth = load_truth(held_out, pairs, experiment.view_conditioning)
    sampler = Sampler(pipeline, prompts, held_out.rig, experiment.view_conditioning, experiment.sampling)
    images = sampler.sample(truth.inputs, truth.cameras, truth.references, [(0, i) for i in range(len(pairs))])
    # Other animals stand in for the training set: only the pictures that need none are compared.
    others = baselines(replace(held_out, train=held_out.val), truth, experiment.view_conditioning)
    scores = {
        name: {k: float(v[truth.scored].mean()) for k, v in score_views(pictures, truth).items()}
        for name, pictures in {"model": images, "blank": others["blank"], "copy": others["copy"]}.items()
    }
    assert float(slot_assignment(images, truth)[truth.scored].float().mean()) >= 0.6
    for metric, tolerance in {"psnr": 2.0, "ssim": 0.12, "iou": 0.13}.items():
        assert scores["model"][metric] == pytest.approx(card["model"][metric], abs=tolerance)
        assert scores["model"][metric] > max(scores["blank"][metric], scores["copy"][metric])


TINY = {
    "bases": {
        "small": {
            "image_size": 32, "latent_channels": 4, "autoencoder_channels": [16, 32], "unet_channels": [32, 32], "gslrm_width": 64,
            "gslrm_layers": 1, "autoencoder": {"steps": 2, "batch_size": 4, "compile": False},
        },
    },
    "datasets": {
        name: {"image_size": 32, "train": 4, "val": 2, "extra_views": 1} for name in ("many_rodents", "four_cameras", "three_cameras")
    },
    "experiments": {
        NAME: {
            "training": {"steps": 2, "batch_size": 2, "mixed_precision": "no", "compile": False, "validate_every": 9, "log_every": 1},
            "sampling": {"steps": 2, "batch_size": 2},
            "gslrm": {
                "steps": 1, "batch_size": 1, "target_views": 2, "mixed_precision": "no", "warmup_steps": 0, "compile": False,
                "cache_gigabytes": 1, "turntable_views": 2,
            },
        },
    },
    "evaluation": {"step": 2, "samples": 2},
    "wandb": {"mode": "disabled"},
}  # fmt: skip


@pytest.mark.slow
def test_the_workflow_makes_a_whole_base_with_a_card(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    snakemake("base", results=tmp_path / "results", config=(NAME, str(tmp_path / "tiny.yaml")))
    card_file = Layout(tmp_path / "results").export(NAME)
    base, card = card_file.parent, json.loads(card_file.read_text())
    assert missing_parts(base) == []
    assert set(card["held_out"]) == {"autoencoder", "multiview", "gslrm"}
    assert "nearest" in card["held_out"]["multiview"] and card["megabytes"] < 24
    weights = [t for file in base.rglob("*.safetensors") for t in load_file(file).values() if t.is_floating_point()]
    assert {t.dtype for t in weights} == {torch.float16}
    assert (
        MultiViewPipeline.from_pretrained(base).image_size == load_gslrm(base / "gslrm" / "gslrm.safetensors", 32).config.image_size
    )
