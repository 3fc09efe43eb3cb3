"""GS-LRM while it trains: the best weights on unseen cameras are used, hopeless trainings end, sinking updates are said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mvfl.config.evaluation import Wandb
from mvfl.config.gslrm import GslrmFinetuning
from mvfl.gslrm.checkpoint import save_gslrm
from mvfl.gslrm.model import Gslrm
from mvfl.gslrm.training import GslrmTraining
from mvfl.gslrm.watching import BEST, Watch
from mvfl.layout import Reconstruction
from mvfl.records.base import BaseRecord
from mvfl.records.manifest import Manifest
from mvfl.records.scores import ReconstructionScores
from mvfl.runtime.fingerprint import Fingerprint
from mvfl.runtime.tracking import Run, read_log
from mvfl.stages.gslrm import Sources, finetune, run, score_models
from mvfl.stages.jobs import GslrmJob

QUIET = Run("x", "gslrm", {}, mode="disabled")
SETTINGS: dict[str, Any] = {
    "inputs": "real", "batch_size": 1, "mixed_precision": "no", "warmup_steps": 0, "target_views": 2, "validate_every": 1,
    "save_minutes": 60, "checkpoint_every": 100,
}  # fmt: skip


def scripted(psnrs: dict[int, float]) -> tuple[Any, dict[int, float]]:
    """A look that finds what is written, and the first weight of the network at each."""
    seen: dict[int, float] = {}

    def look(model: Gslrm, step: int) -> tuple[Path, dict[str, float]]:
        assert not model.training
        seen[step] = float(model.pixel_gaussian_decoder[1].weight.detach().flatten()[0])
        return Path("none.png"), {"val/foreground_psnr": psnrs[step], "val/mask_iou": 0.5}

    return look, seen


def training(base: Path, manifest: Manifest, folder: Path, look: Any, **settings: Any) -> GslrmTraining:
    s = GslrmFinetuning.model_validate({**SETTINGS, **settings})
    checkpoint = BaseRecord.read(base).gslrm
    assert checkpoint is not None
    batches = Sources(manifest, manifest, s).batches()
    made = GslrmTraining(s, checkpoint, batches, folder, Fingerprint({}, {}, "code"), None, look)
    made.restore()
    return made


def test_the_weights_of_the_best_look_are_kept(tiny_base: Path, tiny_manifest: Manifest, tmp_path: Path) -> None:
    look, seen = scripted({1: 10.0, 2: 12.0, 3: 11.0})
    made = training(tiny_base, tiny_manifest, tmp_path, look, steps=3, learning_rate=1e-3)
    made.run(QUIET)
    best = made.watch.best_weights()
    assert best == tmp_path / BEST and made.step == 3
    weight = load_file(best)["model.pixel_gaussian_decoder.1.weight"].flatten()[0]
    assert float(weight) == seen[2] != seen[3] and made.model.training
    assert training(tiny_base, tiny_manifest, tmp_path, look, steps=3, learning_rate=1e-3).watch.best_weights() == best, (
        "after a stop"
    )
    made.watch.settings = made.settings.model_copy(update={"weights": "last"})
    assert made.watch.best_weights() is None


def test_a_training_without_a_better_look_ends_and_stays_ended(
    tiny_base: Path, tiny_manifest: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    look, seen = scripted({1: 10.0, 2: 9.0, 3: 9.5, 4: 20.0})
    for _ in range(2):
        made = training(tiny_base, tiny_manifest, tmp_path, look, steps=4, patience=2)
        made.run(QUIET)
        assert made.step == 3 and sorted(seen) == [1, 2, 3]
    assert "No better one in 2 looks: the training ends; the best was step 1" in capsys.readouterr().err


def test_updates_that_sink_are_said_while_they_sink(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    watch = Watch(GslrmFinetuning(), tmp_path, None)
    for step in range(1, 1201):
        watch.updated(step, moved=step % 2 == 0)
    said = capsys.readouterr().err
    assert said.count("only 50% of the last 100 steps moved the weights") == 3 and "Warning at step 100:" in said
    for step in range(1201, 3000):
        watch.updated(step, moved=True)
    assert "Warning" not in capsys.readouterr().err.replace("Warning at step 1201", "")


def test_the_stage_looks_at_unseen_cameras_and_logs_what_it_saw(tiny_base: Path, tiny_data: Path, tmp_path: Path) -> None:
    s = GslrmFinetuning.model_validate({**SETTINGS, "steps": 2, "log_every": 1, "validation_samples": 1})
    manifest, checkpoint = Manifest.read(tiny_data), BaseRecord.read(tiny_base).gslrm
    assert checkpoint is not None
    job = GslrmJob(gslrm=s, wandb=Wandb(mode="disabled"), base=tiny_base, real=tiny_data, state=tmp_path / "state", out=tmp_path)
    assert finetune(job, checkpoint, Sources(manifest, manifest, s))
    looks = [row for row in read_log(tmp_path / "state" / "log.jsonl") if "val/foreground_psnr" in row]
    assert [row["step"] for row in looks] == [1, 2] and all(row["val/mask_iou"] >= 0 for row in looks)
    assert (tmp_path / "state" / "validation" / "step-000002.png").is_file() and Reconstruction(tmp_path).weights.is_file()


def test_results_are_reported_on_the_block_that_nothing_was_chosen_by(tiny_manifest: Manifest) -> None:
    kept = replace(tiny_manifest, train=tiny_manifest.train[:3], test=tiny_manifest.train[3:])
    assert kept.judging == tiny_manifest.train[3:] and tiny_manifest.judging == tiny_manifest.val


def test_the_gate_is_decided_on_one_block_and_reported_on_the_other(
    tiny_base: Path, tiny_manifest: Manifest, tmp_path: Path
) -> None:
    s = GslrmFinetuning.model_validate({**SETTINGS, "steps": 1})
    kept = replace(tiny_manifest, train=tiny_manifest.train[:3], test=tiny_manifest.train[3:])
    weights = {"model": BaseRecord.read(tiny_base).gslrm, "base": BaseRecord.read(tiny_base).gslrm}
    reported = score_models(Sources(kept, kept, s), weights)[1]  # type: ignore[arg-type]
    gate = score_models(Sources(kept, kept, s), weights, block="val")[1]  # type: ignore[arg-type]
    assert [row.sample for row in reported.samples] == list(kept.test) and reported.block == "test"
    assert [row.sample for row in gate.samples] == kept.val and gate.block == "val"


def test_best_weights_of_another_run_are_not_taken_for_this_one_s(
    tiny_base: Path, tiny_manifest: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    look, _ = scripted({1: 10.0, 2: 12.0, 3: 11.0})
    made = training(tiny_base, tiny_manifest, tmp_path, look, steps=3)
    made.run(QUIET)
    save_gslrm(made.model, tmp_path / BEST, 1, 1)
    assert made.watch.best_weights() is None
    assert "the best weights (step 2) are gone" in capsys.readouterr().err


def test_while_points_are_shaped_every_parameter_has_a_gradient(tiny_base: Path, tiny_manifest: Manifest, tmp_path: Path) -> None:
    """Several processes wait for each one."""
    made = training(
        tiny_base, tiny_manifest, tmp_path, None, steps=1, pointsdist_warmup_steps=1, losses={"ssim": 0.0, "alpha": 0.0}
    )
    with made.batches as batches:
        made._compare(*batches.at(0))
    assert all(p.grad is not None for p in made.model.parameters())


def test_where_the_base_is_used_the_figures_and_pictures_are_the_base_s(
    tiny_base: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s = GslrmFinetuning.model_validate({**SETTINGS, "steps": 1, "learning_rate": 1e-2, "turntable_views": 2})
    manifest, checkpoint = Manifest.read(tiny_data), BaseRecord.read(tiny_base).gslrm
    assert checkpoint is not None
    monkeypatch.setattr("mvfl.stages.gslrm.beats_base", lambda _: False)
    job = GslrmJob(gslrm=s, wandb=Wandb(mode="disabled"), base=tiny_base, real=tiny_data, state=tmp_path / "state", out=tmp_path)
    run(job)
    found, base = (
        ReconstructionScores.read(Reconstruction(tmp_path).metrics),
        score_models(Sources(manifest, manifest, s), {"m": checkpoint})[1],
    )
    assert found.used == "base" and found.mean == pytest.approx(base.mean)
    assert "base" not in found.baselines and found.baselines["finetuned"] != found.mean
    mine, theirs = (load_file(p) for p in (Reconstruction(tmp_path).weights, checkpoint))
    assert all(torch.equal(mine[k], theirs[k].float()) for k in mine)
