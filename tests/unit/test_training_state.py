"""Training states: verified when written, set aside when broken or of another run, kept within their budget."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mvfl.runtime.files import InputError
from mvfl.runtime.fingerprint import Fingerprint
from mvfl.runtime.training_state import StopRequest, TrainingState


def fingerprint(**settings: Any) -> Fingerprint:
    return Fingerprint(settings, {"data": "hash"}, "code")


def test_a_broken_state_file_is_set_aside(tmp_path: Path) -> None:
    state = TrainingState(tmp_path / "s", fingerprint())
    state.save(1, {"x": torch.ones(3)})
    state.save(2, {"x": torch.zeros(3)})
    newest = tmp_path / "s" / "step-00000002.pt"
    newest.write_bytes(newest.read_bytes()[:40])
    step, content = state.load(at_most=9)
    assert step == 1 and content is not None and torch.equal(content["x"], torch.ones(3))
    assert newest.with_suffix(".broken").exists()


def test_states_of_other_settings_are_kept_by_their_fingerprint_and_come_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the numbers of their run: those of two runs must not mix."""
    old, new = fingerprint(rate=1), fingerprint(rate=2)
    TrainingState(tmp_path / "states", old).save(5, {"x": torch.ones(1)})
    for name in ("log.jsonl", "best.safetensors"):
        (tmp_path / name).write_text("old")
    changed = TrainingState(tmp_path / "states", new)
    assert changed.load(9) == (0, None) and not (tmp_path / "log.jsonl").exists() and not (tmp_path / "best.safetensors").exists()
    assert "Changed since the saved state: settings.rate: starting anew" in capsys.readouterr().err
    assert (tmp_path / "older" / old.value / "log.jsonl").read_text() == "old"
    changed.save(1, {"x": torch.zeros(1)})
    (tmp_path / "best.safetensors").write_text("new")
    back = TrainingState(tmp_path / "states", old)
    assert back.steps() == [5] and all((tmp_path / name).read_text() == "old" for name in ("log.jsonl", "best.safetensors"))
    assert "going on with the states that these settings left" in capsys.readouterr().err
    assert [f.name for f in (tmp_path / "older").iterdir()] == [new.value]
    assert TrainingState(tmp_path / "states", new).steps() == [1]


def test_states_of_other_settings_go_before_any_of_the_present_ones(tmp_path: Path) -> None:
    megabyte = {"x": torch.zeros(250_000)}
    for rate in (1, 2):
        TrainingState(tmp_path / "states", fingerprint(rate=rate)).save(1, megabyte)
    state = TrainingState(tmp_path / "states", fingerprint(rate=3), budget_gigabytes=0.0035)
    state.save(1, megabyte)
    state.save(2, megabyte)
    assert state.steps() == [1, 2]
    assert [f.name for f in (tmp_path / "older").iterdir()] == [fingerprint(rate=2).value], "the oldest went"


def test_the_timer_never_spends_the_run_on_saving(tmp_path: Path) -> None:
    state = TrainingState(tmp_path, fingerprint(), save_minutes=1e-9)
    assert state.due
    state.save_took = 60.0
    assert not state.due


def test_saving_an_early_step_again_keeps_it_beside_later_ones(tmp_path: Path) -> None:
    state = TrainingState(tmp_path / "s", fingerprint(), keep=2)
    for step in (6, 7, 1):
        state.save(step, {"x": torch.ones(1)})
    assert state.steps() == [1, 6, 7]


def test_states_keep_to_their_budget_and_the_newest_one_never_goes(tmp_path: Path) -> None:
    megabyte = {"x": torch.zeros(250_000)}
    state = TrainingState(tmp_path / "s", fingerprint(), keep=5, budget_gigabytes=0.0025)
    for step in (1, 2, 3):
        state.save(step, megabyte)
    assert state.steps() == [2, 3], "two states fit, the oldest went"
    with pytest.raises(InputError, match=r"No room for another training state.*is kept; free some space"):
        state.save(4, {"x": torch.zeros(600_000)})
    assert state.steps() == [3]


def test_a_filling_disk_is_seen_before_a_state_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = TrainingState(tmp_path / "s", fingerprint())
    state.save(1, {"x": torch.zeros(10)})
    monkeypatch.setattr("mvfl.runtime.training_state.shutil.disk_usage", lambda _: SimpleNamespace(free=20))
    with pytest.raises(InputError, match=r"step-00000001\.pt is kept"):
        state.save(2, {"x": torch.zeros(10)})
    assert state.load(5)[0] == 1


def test_what_a_killed_job_left_half_written_is_swept(tmp_path: Path) -> None:
    (tmp_path / ".step-00000007.pt.partial-123").write_bytes(b"half")
    assert TrainingState(tmp_path, fingerprint()).load(10) == (0, None)
    assert not list(tmp_path.glob(".*.partial-*"))


def test_ctrl_c_asks_to_stop_and_a_second_one_ends_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    try:
        stop = StopRequest()
        assert not stop
        os.kill(os.getpid(), signal.SIGINT)
        assert stop and stop.reason == "received SIGINT" and "once more ends without saving" in capsys.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_disk_that_fails_does_not_set_a_whole_state_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = TrainingState(tmp_path / "s", fingerprint())
    state.save(1, {"x": torch.ones(1)})

    def stale(*_a: Any, **_k: Any) -> None:
        raise OSError(116, "Stale file handle")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="Stale"):
        patch.setattr(torch, "load", stale)
        state.load(9)
    assert state.load(9)[0] == 1


def test_of_several_processes_each_may_find_the_broken_state_moved_already(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = TrainingState(tmp_path / "s", fingerprint())
    state.save(1, {"x": torch.ones(1)})
    state.save(2, {"x": torch.ones(1)})
    newest, load = tmp_path / "s" / "step-00000002.pt", torch.load
    newest.write_bytes(b"broken")

    def gone(path: Path, **options: Any) -> Any:
        if path == newest:
            newest.rename(newest.with_suffix(".broken"))  # by the first process, meanwhile
            raise RuntimeError("no state")
        return load(path, **options)

    monkeypatch.setattr(torch, "load", gone)
    assert state.load(9)[0] == 1


def test_the_state_that_a_run_goes_on_from_never_makes_room_for_the_next(tmp_path: Path) -> None:
    megabyte = {"x": torch.zeros(250_000)}
    state = TrainingState(tmp_path / "s", fingerprint(), keep=5, budget_gigabytes=0.0035)
    for step in (50, 60, 10):
        state.save(step, megabyte)
    state.save(11, megabyte)
    assert state.steps() == [10, 11, 60], "an early segment is trained again beside states of later ones"


def test_time_to_save_is_kept_free_before_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    stop, now = StopRequest(minutes=11), time.monotonic()  # a minute of it is the margin
    stop.reserve = 120.0  # of a slow file system
    monkeypatch.setattr(time, "monotonic", lambda: now + 7 * 60)
    assert not stop
    monkeypatch.setattr(time, "monotonic", lambda: now + 8 * 60 + 1)
    assert stop and stop.time_spent
    stop.reason, stop.reserve = None, 3600.0  # of one so slow that nothing else would be done
    monkeypatch.setattr(time, "monotonic", lambda: now + 7 * 60)
    assert not stop, "three quarters of the time are worked in"
    stop.release()
    assert {number: signal.getsignal(number) for number in before} == before
