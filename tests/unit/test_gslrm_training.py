"""GS-LRM's fine-tuning: resuming is exact, and the published view choice works where it makes sense."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from mvfl.config.evaluation import Wandb
from mvfl.config.gslrm import GslrmFinetuning, GslrmLosses
from mvfl.layout import Reconstruction
from mvfl.records.base import BaseRecord
from mvfl.records.manifest import Manifest
from mvfl.runtime.files import InputError
from mvfl.stages.gslrm import Sources, finetune
from mvfl.stages.jobs import GslrmJob


class Finetuning:
    """Fine-tunes the tiny base on the recorded views of the tiny data set, in one folder per name."""

    def __init__(self, base: Path, data: Path, root: Path, **settings: Any) -> None:
        self.base, self.data, self.root = base, data, root
        self.settings = GslrmFinetuning(inputs="real", batch_size=1, mixed_precision="no", **settings)

    def run(self, name: str, targets: Manifest | None = None) -> Path:
        """Train to the last step, supervised by the tiny data set or by another one; returns the weights."""
        job = GslrmJob(
            gslrm=self.settings, wandb=Wandb(mode="disabled"), base=self.base, real=self.data, state=self.root / name / "state",
            out=self.root / name,
        )  # fmt: skip
        manifest, checkpoint = Manifest.read(self.data), BaseRecord.read(self.base).gslrm
        assert checkpoint is not None
        finetune(job, checkpoint, Sources(targets or manifest, manifest, self.settings))
        return Reconstruction(job.out).weights


def test_a_resumed_gslrm_run_gives_the_same_weights(tiny_base: Path, tiny_data: Path, tmp_path: Path) -> None:
    losses = GslrmLosses(alpha=0.1)
    tuning = Finetuning(
        tiny_base, tiny_data, tmp_path, steps=2, warmup_steps=1, losses=losses, checkpoint_every=1, log_every=1, target_views=2
    )
    whole = tuning.run("a")
    tuning.run("b")
    newest = sorted((tmp_path / "b" / "state" / "states").glob("step-*.pt"))[-1]
    newest.unlink()
    resumed = tuning.run("b")
    assert whole.read_bytes() == resumed.read_bytes()
    assert load_file(whole)["model.gaussian_upsampler.linear.weight"].isfinite().all()


def test_the_published_view_choice_trains_on_one_data_set_and_is_refused_between_two(
    tiny_base: Path, tiny_data: Path, tmp_path: Path
) -> None:
    views: dict[str, Any] = {"input_views": 3, "target_views": 5, "view_choice": "any", "compositing": "8bit"}
    tuning = Finetuning(tiny_base, tiny_data, tmp_path, steps=1, warmup_steps=0, **views)
    assert tuning.run("a").exists()
    with pytest.raises(InputError, match="use 'first' with them"):
        tuning.run("b", targets=replace(Manifest.read(tiny_data), data_hash="other"))
