"""`mvfl status` and `mvfl logs` read what stages and SLURM leave; they start and stop nothing."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
from rich.console import Console

from mvfl.inspection.status import log_lines, read_status, status_table
from mvfl.runtime.files import InputError


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "state" / "mouse" / "mvdiffusion"
    (folder / "states").mkdir(parents=True)
    (folder / "states" / "step-00000020.pt").write_bytes(b"x" * 1000)
    rows = [
        {"step": s, "time": 1000.0 + s, "train/loss": 1 / s, "train/objects_per_second": 8.0, "train/gpu_memory_gib": 40.5,
         "train/gpu_load": 97.0}
        for s in range(1, 31)
    ]  # fmt: skip
    (folder / "log.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    attempt = {"event": "begun", "step": 0, "until": 100, "host": "node1", "pid": 1, "slurm_job": "7"}
    (folder / "attempts.jsonl").write_text(json.dumps(attempt) + "\n")
    (folder / "lock").write_text(json.dumps({"host": "node1", "pid": 1, "slurm_job": "7"}))
    return tmp_path


def test_a_running_job_shows_step_speed_time_left_and_gpu(results: Path) -> None:
    (row,) = read_status(results, {"7": ("RUNNING", "rule_train_mvdiffusion_wildcards_mouse_2000")})
    assert (row.experiment, row.stage, row.state) == ("mouse", "mvdiffusion", "RUNNING 7")
    assert (row.step, row.until, row.saved, row.rate, row.gpu_memory, row.gpu_load) == (30, 100, 20, 8.0, 40.5, 97.0)
    assert row.eta == pytest.approx(70)
    console = Console(width=120, record=True)
    console.print(status_table([row], results))
    text = console.export_text()
    assert "30/100" in text and "0:01:10" in text and "RUNNING 7" in text and "GB free" in text


def test_killed_finished_and_waiting_jobs_are_told_apart(results: Path) -> None:
    folder = results / "state" / "mouse" / "mvdiffusion"
    (folder / "lock").write_text(json.dumps({"host": socket.gethostname(), "pid": 2**22 + 1, "slurm_job": None}))
    waiting = {"9": ("PENDING", "rule_finetune_gslrm_wildcards_mouse")}
    killed, pending = read_status(results, waiting)
    assert killed.state == "killed"
    assert (pending.experiment, pending.stage, pending.state) == ("mouse", "gslrm", "PENDING 9")
    (folder / "lock").write_text(json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "slurm_job": None}))
    assert read_status(results, {})[0].state.startswith("running")
    (folder / "lock").unlink()
    with open(folder / "attempts.jsonl", "a") as handle:
        handle.write(json.dumps({"event": "ended", "step": 100, "reason": "finished"}) + "\n")
    assert read_status(results, {})[0].state == "finished"


def test_logs_follow_from_one_stage_to_the_next(tmp_path: Path) -> None:
    train = tmp_path / "logs" / "train_mvdiffusion" / "mouse-2000.log"
    train.parent.mkdir(parents=True)
    train.write_text("one\ntwo\nthree\n")
    lines = log_lines(tmp_path, "mouse", 2, follow=True, pause=0.01)
    assert [next(lines) for _ in range(3)] == [f"==> {train}", "two", "three"]
    with open(train, "a") as handle:
        handle.write("four\n")
    assert next(lines) == "four"
    evaluate = tmp_path / "logs" / "score_checkpoint" / "mouse-2000.log"
    evaluate.parent.mkdir()
    evaluate.write_text("Case A\n")
    os.utime(evaluate, (train.stat().st_mtime + 5,) * 2)
    assert [next(lines) for _ in range(2)] == [f"==> {evaluate}", "Case A"]
    with pytest.raises(InputError, match="No log of 'rat'"):
        next(log_lines(tmp_path, "rat", 2, follow=False))


def test_the_log_of_an_experiment_is_not_that_of_another_whose_name_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "logs" / "train_mvdiffusion"
    folder.mkdir(parents=True)
    mine, other = folder / "mouse-2000.log", folder / "mouse-b-2000.log"
    for number, log in enumerate((mine, other)):
        log.write_text(log.stem)
        os.utime(log, (1000 + number, 1000 + number))
    assert next(log_lines(tmp_path, "mouse", 2, follow=False)) == f"==> {mine}"
    assert next(log_lines(tmp_path, "mouse-b", 2, follow=False)) == f"==> {other}"


def test_of_generated_views_those_of_the_present_settings_are_counted(tmp_path: Path) -> None:
    state, joined = tmp_path / "state" / "mouse" / "synthetic", tmp_path / "experiments" / "mouse" / "synthetic" / "manifest.json"
    for name in ("old/sample_1", "old/sample_2", "new/sample_1"):
        (state / name).mkdir(parents=True)
    joined.parent.mkdir(parents=True)
    joined.write_text("of the old ones")
    os.utime(joined, (1000, 1000))
    (state / "fingerprint.json").write_text(json.dumps({"fingerprint": "new", "parts": {}}))
    (row,) = read_status(tmp_path, {})
    assert row.step == 1 and row.state == "stopped"
    os.utime(joined)
    assert read_status(tmp_path, {})[0].state == "finished"
