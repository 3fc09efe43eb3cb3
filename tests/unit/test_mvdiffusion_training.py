"""Multi-view training: resuming is exact, faults are caught before they cost, what does not belong together is refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY_BASE
from PIL import Image
from safetensors.torch import load_file

from mvfl.config.datasets import RodentDataset
from mvfl.config.evaluation import Wandb
from mvfl.data.latents import LatentCache
from mvfl.data.render import render_dataset
from mvfl.geometry.cameras import orbit_camera
from mvfl.geometry.rig import Rig, load_rig
from mvfl.layout import Checkpoint
from mvfl.mvdiffusion import training
from mvfl.mvdiffusion.batches import Recorded, TrainingData
from mvfl.mvdiffusion.objective import Objective
from mvfl.mvdiffusion.objective import draw as objective_draw
from mvfl.mvdiffusion.pipeline import MultiViewPipeline
from mvfl.records.provenance import Provenance
from mvfl.runtime.endings import Collapsed, Unfinished
from mvfl.runtime.files import InputError
from mvfl.runtime.tracking import read_attempts
from mvfl.stages import latents
from mvfl.stages.base import prepare_base
from mvfl.stages.jobs import LatentsJob, TrainJob
from mvfl.stages.train import train

MakeJob = Callable[..., TrainJob]


def weights(job: TrainJob) -> dict[str, torch.Tensor]:
    return load_file(Checkpoint(job.out).weights)


def same_weights(a: TrainJob, b: TrainJob) -> bool:
    first, second = weights(a), weights(b)
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def with_index(latents: Path, copy: Path, **changes: Any) -> Path:
    """A copy of a latent cache whose `index.json` says something else."""
    shutil.copytree(latents, copy)
    index = json.loads((copy / "index.json").read_text())
    (copy / "index.json").write_text(json.dumps(index | changes))
    return copy


def test_a_resumed_run_gives_the_same_weights_bit_for_bit(train_job: MakeJob, tmp_path: Path) -> None:
    whole, begun, resumed = (train_job(tmp_path / folder, until) for folder, until in (("a", 4), ("b", 2), ("b", 4)))
    for job in (whole, begun, resumed):
        train(job)
    assert same_weights(whole, resumed) and not same_weights(whole, begun)


def test_a_signal_saves_the_state_and_the_next_run_goes_on(
    train_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, stopped = train_job(tmp_path / "a", 4), train_job(tmp_path / "b", 4)
    train(whole)
    real, calls = Objective.loss, []

    def interrupted(self: Objective, *args: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, *args)

    monkeypatch.setattr(Objective, "loss", interrupted)
    with pytest.raises(Unfinished, match=r"Stopped at step 2 of 4 \(received SIGTERM\)"):
        train(stopped)
    assert not stopped.out.exists()
    assert read_attempts(stopped.state)[-1]["reason"] == "Unfinished", "and W&B is told so"
    train(stopped)
    assert len(calls) == 4
    assert same_weights(whole, stopped)


def test_changed_settings_start_anew_and_keep_the_old_state_which_comes_back_with_them(
    train_job: MakeJob, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, changed = (
        train_job(tmp_path, 2),
        train_job(tmp_path, 2, training={"learning_rate": 5e-4}, out=tmp_path / "checkpoint-02"),
    )
    again = train_job(tmp_path, 2, out=tmp_path / "checkpoint-002")
    train(first)
    train(changed)
    (aside,) = (first.state / "older").iterdir()
    assert (aside / "states" / "step-00000002.pt").is_file() and not same_weights(first, changed)
    assert "Changed since the saved state: settings.training.learning_rate: starting anew" in capsys.readouterr().err
    train(again)
    said = capsys.readouterr().err
    assert "going on with the states that these settings left" in said and "Step 2 is trained already" in said
    assert same_weights(first, again)


def test_a_nan_loss_ends_the_run(train_job: MakeJob, tmp_path: Path) -> None:
    job = train_job(tmp_path, 4, training={"learning_rate": 1e18})
    with pytest.raises(FloatingPointError, match=r"lower training\.learning_rate"):
        train(job)
    assert not job.out.exists()


def test_a_collapsing_run_warns_and_stops_where_configured(
    train_job: MakeJob, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def collapsed(_pipeline: MultiViewPipeline, step: int) -> tuple[Path, dict[str, float]]:
        return tmp_path / f"step-{step}.png", {"val/copy_score": 0.6, "val/slot_accuracy": 0.9}

    def watched(folder: str, **limits: Any) -> TrainJob:
        return train_job(tmp_path / folder, 2, training={"watch_steps": [1], **limits})

    train(watched("a"), validate=collapsed)
    assert "Warning at step 1: the views repeat the input (copy score 0.60, limit 0.3)" in capsys.readouterr().err
    with pytest.raises(Collapsed, match=r"Stopped at step 1: the views repeat the input"):
        train(watched("b", stop_on_collapse=True), validate=collapsed)
    # The workflow's own retry must not carry it on; other limits may.
    with pytest.raises(Collapsed, match=r"Stopped at step 1: .*It is not carried on: change the experiment"):
        train(watched("b", stop_on_collapse=True), validate=collapsed)
    train(watched("b", stop_on_collapse=True, watch_copy_score=0.7), validate=collapsed)


def test_a_later_segment_never_starts_from_nothing(train_job: MakeJob, tmp_path: Path) -> None:
    """Without a training state the weights of the segment before are taken, not the base's."""
    first = train_job(tmp_path, 2)
    train(first)
    shutil.rmtree(first.state)
    second = train_job(tmp_path, 3, training={"learning_rate": 1e-12}, start=first.out)
    train(second)
    a, b = weights(first), weights(second)
    assert all(torch.allclose(a[k], b[k], atol=1e-6) for k in a)


def test_a_latent_cache_of_another_base_is_refused(train_job: MakeJob, tiny_latents: Path, tmp_path: Path) -> None:
    foreign = with_index(tiny_latents, tmp_path / "cache", base_hash="other")
    with pytest.raises(InputError, match="encoded with another base"):
        train(train_job(tmp_path, 2, latents=[foreign]))


def test_a_missing_reference_is_refused(train_job: MakeJob, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="reference 9 does not exist: rig ring60 has views 0 to 5"):
        train(train_job(tmp_path, 1, run={"reference": 9}))


def test_words_alone_train_on_a_uniform_ring_and_are_refused_on_another_rig(
    train_job: MakeJob, tiny_data: Path, tiny_latents: Path, tmp_path: Path
) -> None:
    """Words relative to the reference mean the same direction for every reference on a uniform ring only."""
    base = prepare_base(TINY_BASE.model_copy(update={"view_conditioning": "relative_prompt"}), tmp_path / "base", tiny_data)

    def on_rig(name: str) -> TrainJob:
        cache = with_index(tiny_latents, tmp_path / name, base_hash=base.hash, rig=load_rig(name, 32).to_json())
        run = {"view_conditioning": "relative_prompt"}
        return train_job(tmp_path / f"on_{name}", 1, run=run, latents=[cache], base=tmp_path / "base" / "base.json")

    ring, measured = on_rig("ring60"), on_rig("markerless_mouse_1")
    train(ring)
    assert Checkpoint(ring.out).weights.is_file()
    with pytest.raises(InputError, match="relative_prompt needs a uniform ring, and rig markerless_mouse_1 has none"):
        train(measured)
    assert not measured.out.exists()


@pytest.fixture(scope="module")
def four_camera_latents(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """Other animals before another rig, of four cameras, one of them above."""
    out = tmp_path_factory.mktemp("four")
    rig = Rig("four", [orbit_camera(a, e, size=32) for a, e in ((0, 10), (80, 30), (170, 80), (250, 0))])
    (out / "rig.json").write_text(json.dumps(rig.to_json()))
    settings = RodentDataset(kind="rodent", image_size=32, rig=str(out / "rig.json"), train=6, val=1, seed=8, fill=0.75)
    render_dataset("four", settings, out / "data", 2)
    job = {"augmentation": {"backgrounds": ["white"], "tints": 1}, "seed": 0, "base": tiny_base, "out": out / "cache"}
    latents.run(LatentsJob.model_validate(job | {"manifest": out / "data" / "manifest.json"}))
    return out / "cache"


def test_one_training_learns_from_recordings_of_several_rigs(
    train_job: MakeJob, tiny_latents: Path, four_camera_latents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[int] = []
    monkeypatch.setattr(training, "draw", lambda *a: shapes.append(a[1]) or objective_draw(*a))
    both = [tiny_latents, four_camera_latents]
    whole, begun, resumed = (train_job(tmp_path / f, until, latents=both) for f, until in (("a", 4), ("b", 2), ("b", 4)))
    for job in (whole, begun, resumed):
        train(job)
    assert set(shapes) == {4, 6}, "a pass shows the views of one rig"
    assert same_weights(whole, resumed)
    assert json.loads(Checkpoint(whole.out).config.read_text())["num_views"] == 6, "those of the judged data set"
    record = Provenance.read(Checkpoint(whole.out).provenance)
    assert [record.unchanged(key).parent for key in ("latents", "latents_1")] == both


def test_data_sets_are_drawn_as_often_as_they_have_samples() -> None:
    def part(samples: int) -> Recorded:
        rows = np.zeros((samples, 1, 16))
        cache = LatentCache(np.zeros((samples, 1, 1, 2, 1, 1), np.float16), np.zeros((samples, 1, 1, 3), np.float32), rows)
        return Recorded(cache, load_rig("ring60"), np.zeros((1, 1), int))

    data = TrainingData([part(30), part(10)], torch.zeros(6, 1, 1))
    drawn = [data.draw(1, turn, 2) for turn in range(2000)]
    small = [samples for chosen, samples in drawn if chosen is data.parts[1]]
    assert 0.22 < len(small) / len(drawn) < 0.28
    assert set(np.concatenate(small)) == set(range(10))
    alone = TrainingData([part(30)], torch.zeros(6, 1, 1))
    one_pass = np.concatenate([alone.draw(1, turn, 2)[1] for turn in range(15)])
    assert sorted(one_pass) == list(range(30)), "one data set alone is gone through in shuffles"


def test_numbers_and_pictures_reach_the_wandb_run(train_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = SimpleNamespace(id="x", log=lambda values, step: seen.update(values), finish=lambda exit_code: None)
    seen: dict[str, object] = {}
    monkeypatch.setattr("wandb.init", lambda **settings: seen.update(settings) or run)

    def picture(_pipeline: MultiViewPipeline, step: int) -> tuple[Path, dict[str, float]]:
        Image.new("RGB", (4, 4)).save(tmp_path / "grid.png")
        return tmp_path / "grid.png", {"val/copy_score": 0.0, "val/slot_accuracy": 1.0}

    wandb = Wandb(mode="offline", project="mouse_facelift")
    train(train_job(tmp_path, 2, training={"validate_every": 1}, wandb=wandb), validate=picture)
    assert {"train/loss", "train/lr", "train/grad_norm", "validation/images", "val/slot_accuracy"} <= set(seen)
    assert (seen["project"], seen["name"], seen["mode"]) == ("mouse_facelift", "tiny", "offline")
