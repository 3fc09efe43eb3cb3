"""Shared fixtures: one tiny data set, one tiny base and what the stages make of them, for the whole session."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("WANDB_MODE", "disabled")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
THREADS = 1 if "PYTEST_XDIST_WORKER" in os.environ else 2
os.environ["OMP_NUM_THREADS"] = str(THREADS)

# Types and shapes in annotations are checked at run time, in every test and in the whole package.
from jaxtyping import install_import_hook

install_import_hook("mvfl", "typechecking.checked")

import pytest
import torch
import yaml
from running import snakemake
from xdist.scheduler import LoadScopeScheduling

from mvfl.config.bases import ScratchBase
from mvfl.config.datasets import RodentDataset
from mvfl.config.evaluation import Wandb
from mvfl.config.experiment import Augmentation, Experiment, Training, TrainingRun
from mvfl.config.strict import part_of
from mvfl.data.render import render_dataset
from mvfl.layout import Prompts
from mvfl.mvdiffusion.pipeline import MultiViewPipeline
from mvfl.records.manifest import Manifest
from mvfl.stages import latents
from mvfl.stages.base import prepare_base
from mvfl.stages.jobs import LatentsJob, TrainJob
from mvfl.stages.prompts import embed_prompts
from mvfl.verdict.scores import Truth, load_truth

torch.set_num_threads(THREADS)
HANDLERS = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)}
TINY_BASE = ScratchBase(
    kind="scratch", image_size=32, autoencoder_channels=[16, 32], unet_channels=[32, 32], gslrm_width=64, gslrm_layers=2,
    dataset="tiny", autoencoder={"steps": 4},
)  # fmt: skip


class _OneRun(LoadScopeScheduling):
    """With several processes: one makes the finished run, and all tests that may use it follow there, in order."""

    def _split_scope(self, nodeid: str) -> str:
        files = ("tests/workflow/test_workflow.py", "tests/workflow/test_ending.py", "tests/browser/test_page.py")
        return "the finished run" if nodeid.startswith(files) else nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """How pytest-xdist shares tests out."""
    return _OneRun(config, log)


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    """Stages that can be interrupted take over signals of their process, which is pytest's here."""
    yield
    for number, handler in HANDLERS.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six 32 px samples with one extra camera each; returns the manifest's path."""
    out = tmp_path_factory.mktemp("data")
    settings = RodentDataset(kind="rodent", image_size=32, train=4, val=2, extra_views=1, seed=3, fill=0.75)
    render_dataset("tiny", settings, out, 2)
    return out / "manifest.json"


@pytest.fixture(scope="session")
def tiny_manifest(tiny_data: Path) -> Manifest:
    return Manifest.read(tiny_data)


@pytest.fixture(scope="session")
def tiny_truth(tiny_manifest: Manifest) -> Truth:
    """The recorded views of both validation samples, seen from two sides each."""
    return load_truth(tiny_manifest, [(n, r) for n in tiny_manifest.val for r in (0, 3)], "relative_pose")


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path) -> Path:
    """A scratch base of 32 px; returns `base.json`."""
    out = tmp_path_factory.mktemp("base")
    prepare_base(TINY_BASE, out, tiny_data)
    return out / "base.json"


@pytest.fixture(scope="session")
def tiny_pipeline(tiny_base: Path) -> MultiViewPipeline:
    return MultiViewPipeline.from_pretrained(tiny_base.parent / "pipeline")


@pytest.fixture(scope="session")
def tiny_prompts(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """Embeddings of the style `facelift`; returns `clr_embeds.pt`."""
    out = tmp_path_factory.mktemp("prompts") / "facelift"
    embed_prompts("facelift", tiny_base.parent / "pipeline", out, width=64)
    return Prompts(out).embeds


@pytest.fixture(scope="session")
def tiny_latents(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path, tiny_base: Path) -> Path:
    """The tiny data set encoded by the tiny base, on white and black; returns the cache's folder."""
    out = tmp_path_factory.mktemp("latents") / "cache"
    augmentation = Augmentation(backgrounds=["white", "black"], tints=1)
    latents.run(LatentsJob(augmentation=augmentation, seed=0, manifest=tiny_data, base=tiny_base, out=out))
    return out


@pytest.fixture(scope="session")
def tiny_experiment() -> Experiment:
    training = Training(
        steps=4, batch_size=2, gradient_accumulation=1, mixed_precision="no", log_every=1, checkpoint_every=2,
        learning_rate=1e-3, save_minutes=60,
    )  # fmt: skip
    return Experiment(base="tiny", dataset="tiny", prompt_style="facelift", wandb_run="tiny", training=training)


@pytest.fixture(scope="session")
def train_job(
    tiny_data: Path, tiny_base: Path, tiny_latents: Path, tiny_prompts: Path, tiny_experiment: Experiment
) -> Callable[..., TrainJob]:
    """Makes training jobs of the tiny experiment."""

    def make(
        folder: Path, until: int, run: dict[str, Any] | None = None, training: dict[str, Any] | None = None, **job: Any
    ) -> TrainJob:
        """A job that keeps its state in `folder` and exports `folder/checkpoint-<until>`.

        Args:
            folder: of one run; jobs of the same folder go on from one another.
            until: last step.
            run, training: settings that differ from the tiny experiment's.
            job: paths and options that differ.
        """
        settings = part_of(tiny_experiment, TrainingRun).model_dump() | (run or {})
        settings["training"] |= training or {}
        usual: dict[str, Any] = {
            "run": settings, "wandb": Wandb(mode="disabled"), "until_step": until, "manifest": tiny_data, "base": tiny_base,
            "latents": [tiny_latents], "prompts": tiny_prompts, "state": folder / "state", "out": folder / f"checkpoint-{until}",
        }  # fmt: skip
        return TrainJob.model_validate(usual | job)

    return make


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run on random weights, sent on to case A by a person's decision."""
    results = tmp_path_factory.mktemp("results")
    overlay = results / "override.yaml"
    overlay.write_text(yaml.safe_dump({"decisions": {"mouse_6x_aug": "A"}}))
    snakemake(results=results, config=("ci", str(overlay)))
    return results
