"""One run on several processes is the run of one process: what each step shows does not depend on how many share it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from mvfl.config.evaluation import Wandb
from mvfl.config.gslrm import GslrmFinetuning
from mvfl.layout import Checkpoint, Reconstruction
from mvfl.runtime.files import InputError
from mvfl.runtime.loop import each_share
from mvfl.stages import gslrm, train
from mvfl.stages.jobs import GslrmJob, Job, TrainJob

# Sums over objects are taken in another order; a step of AdamW turns the last bits of a gradient near zero into more.
GSLRM, MULTI_VIEW = 1e-6, 1e-4


def on_two_processes(command: str, job: Job) -> str:
    """Run a stage's command twice beside itself on the CPU, as `accelerate launch` does on two GPUs; returns its output."""
    file = Path(str(job.model_dump()["state"])).with_suffix(".json")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(job.model_dump_json())
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launcher, "mvfl", command, "--job", str(file), "--threads", "1"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def distance(one: Path, two: Path) -> float:
    first, second = load_file(one), load_file(two)
    assert first.keys() == second.keys()
    return max(float((first[k] - second[k]).abs().max()) for k in first)


def lose_newest_state(job: TrainJob | GslrmJob) -> None:
    sorted((job.state / "states").glob("step-*.pt"))[-1].unlink()


@pytest.mark.slow
def test_gslrm_on_two_processes_is_the_run_of_one_and_resumes_bit_for_bit(tiny_base: Path, tiny_data: Path, tmp_path: Path) -> None:
    settings = GslrmFinetuning.model_validate(
        {"inputs": "real", "batch_size": 2, "steps": 2, "warmup_steps": 1, "mixed_precision": "no", "learning_rate": 1e-4,
         "target_views": 3, "checkpoint_every": 1, "turntable_views": 6, "losses": {"alpha": 0.1}}
    )  # fmt: skip

    def job(name: str) -> GslrmJob:
        return GslrmJob(
            gslrm=settings, wandb=Wandb(mode="disabled"), base=tiny_base, real=tiny_data, state=tmp_path / name / "state",
            out=tmp_path / name,
        )  # fmt: skip

    one, two = job("one"), job("two")
    gslrm.finetune(one, gslrm.checkpoint_of(one.base), gslrm.sources_of(one))
    assert "Starting at step 0, 2 processes" in on_two_processes("gslrm", two)
    weights = [Reconstruction(j.out).weights for j in (one, two)]
    assert distance(*weights) < GSLRM < 5e-5 < distance(weights[0], gslrm.checkpoint_of(one.base))
    before = weights[1].read_bytes()
    lose_newest_state(two)
    assert "Resuming at step 1" in on_two_processes("gslrm", two) and weights[1].read_bytes() == before


@pytest.mark.slow
def test_a_multi_view_training_on_two_processes_is_the_run_of_one(train_job: Callable[..., TrainJob], tmp_path: Path) -> None:
    changed = {"batch_size": 1, "gradient_accumulation": 2, "checkpoint_every": 1, "validate_every": 100, "watch_steps": []}
    one, two = (train_job(tmp_path / name, 2, training=changed) for name in ("one", "two"))
    train.train(one)
    assert "Starting at step 0, 2 processes" in on_two_processes("train", two)
    assert distance(Checkpoint(one.out).weights, Checkpoint(two.out).weights) < MULTI_VIEW
    before = Checkpoint(two.out).weights.read_bytes()
    lose_newest_state(two)
    assert "Resuming at step 1" in on_two_processes("train", two) and Checkpoint(two.out).weights.read_bytes() == before


def test_a_step_that_cannot_be_shared_evenly_is_refused_with_the_remedy() -> None:
    assert each_share(8, 4, "training.gradient_accumulation", "forward passes") == 2
    with pytest.raises(InputError, match=r"gradient_accumulation is 4, and 3 processes cannot share .* set it to a multiple of 3"):
        each_share(4, 3, "training.gradient_accumulation", "forward passes")
