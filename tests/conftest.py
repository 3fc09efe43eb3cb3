"""Shared fixtures: one tiny data set and one tiny base for the whole session."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("WANDB_MODE", "disabled")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "2")

# Shapes in annotations are checked at run time, in every test.
from jaxtyping import install_import_hook

install_import_hook(
    ["mvfl.geometry", "mvfl.gslrm", "mvfl.mvdiffusion", "mvfl.evaluation.metrics", "mvfl.evaluation.scoring"],
    "typechecking.checked",
)

import pytest
import torch
import yaml
from running import snakemake
from safetensors.torch import load_file

from mvfl.base.prepare import prepare_base
from mvfl.config.schema import Augmentation, Experiment, RodentDataset, ScratchBase, Training
from mvfl.data.latents import cache_latents
from mvfl.data.render import render_dataset
from mvfl.data.samples import Manifest, read_manifest
from mvfl.mvdiffusion.pipeline import MultiViewPipeline
from mvfl.prompts import embed_prompts

torch.set_num_threads(2)
PARITY = Path(os.environ.get("MVFL_PARITY", Path(__file__).parents[2] / "shared" / "parity"))
SUBSET = Path(__file__).parent / "data" / "parity"


def parity_file(name: str) -> Path:
    """A file of the original program's data: the full set where it is present, else the subset in the repository."""
    for root in (PARITY, SUBSET):
        if (root / name).exists():
            return root / name
    pytest.skip(f"{name} is in the full parity set only; set MVFL_PARITY to its folder")


def parity_tensors(name: str, *keys: str) -> dict[str, torch.Tensor]:
    """Tensors of the original program; skips where the subset lacks some of `keys`."""
    tensors = load_file(parity_file(name))
    if missing := [k for k in keys if k not in tensors]:
        pytest.skip(f"{name} lacks {', '.join(missing)} in the subset; set MVFL_PARITY to the full set")
    return tensors


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six 32 px samples with one extra camera each; returns the manifest's path."""
    out = tmp_path_factory.mktemp("data")
    settings = RodentDataset(kind="rodent", image_size=32, train=4, val=2, extra_views=1, seed=3, fill=0.75)
    render_dataset("tiny", settings, out, 2)
    return out / "manifest.json"


@pytest.fixture(scope="session")
def tiny_manifest(tiny_data: Path) -> Manifest:
    return read_manifest(tiny_data)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path) -> Path:
    """A scratch base of 32 px; returns `base.json`."""
    out = tmp_path_factory.mktemp("base")
    settings = ScratchBase(
        kind="scratch", image_size=32, autoencoder_channels=[16, 32], unet_channels=[32, 32], gslrm_width=64,
        gslrm_layers=2, dataset="tiny", autoencoder_steps=4,
    )  # fmt: skip
    prepare_base(settings, out, tiny_data)
    return out / "base.json"


@pytest.fixture(scope="session")
def tiny_pipeline(tiny_base: Path) -> MultiViewPipeline:
    return MultiViewPipeline.from_pretrained(tiny_base.parent / "pipeline")


@pytest.fixture(scope="session")
def tiny_prompts(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    out = tmp_path_factory.mktemp("prompts") / "facelift"
    embed_prompts("facelift", tiny_base.parent / "pipeline", out)
    return out / "clr_embeds.pt"


@pytest.fixture(scope="session")
def tiny_latents(
    tmp_path_factory: pytest.TempPathFactory, tiny_manifest: Manifest, tiny_pipeline: MultiViewPipeline, tiny_base: Path
) -> Path:
    from mvfl.base.record import read_record

    out = tmp_path_factory.mktemp("latents") / "cache"
    augmentation = Augmentation(backgrounds=["white", "black"], tints=1)
    cache_latents(tiny_manifest, tiny_pipeline, augmentation, 0, read_record(tiny_base).hash, out)
    return out


@pytest.fixture(scope="session")
def tiny_experiment() -> Experiment:
    training = Training(
        steps=4, batch_size=2, gradient_accumulation=1, mixed_precision="no", log_every=1, checkpoint_every=2,
        learning_rate=1e-3, save_minutes=60,
    )  # fmt: skip
    return Experiment(base="tiny", dataset="tiny", prompt_style="facelift", wandb_run="tiny", training=training)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run on random weights, sent on to case A by a person's decision."""
    results = tmp_path_factory.mktemp("results")
    overlay = results / "override.yaml"
    overlay.write_text(yaml.safe_dump({"decisions": {"mouse_6x_aug": "A"}}))
    snakemake(results=results, config=("ci", str(overlay)))
    return results
