"""Numbers of a run: one W&B run for all attempts, offline where there is no network, and a note of each attempt."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import pytest
import wandb

from mvfl.runtime.endings import Unfinished
from mvfl.runtime.files import InputError
from mvfl.runtime.tracking import Run, Tracker, read_attempts


@pytest.mark.parametrize("mode", ["auto", "online"])
def test_a_node_without_a_network_records_offline_unless_online_was_asked_for(
    mode: Literal["auto", "online"], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = []

    def init(**settings: object) -> SimpleNamespace:
        modes.append(settings["mode"])
        if settings["mode"] == "online":
            raise wandb.errors.CommError("no route to host")
        return SimpleNamespace(id="x", finish=lambda exit_code: None)

    monkeypatch.setattr("wandb.init", init)
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    run = Run("run", "group", {}, mode=mode)
    if mode == "online":
        with pytest.raises(InputError, match=r"set wandb\.mode to offline or auto"):
            Tracker(tmp_path, run)
        assert modes == ["online"]
        return
    with Tracker(tmp_path, run):
        pass
    assert modes == ["online", "offline"]


def test_attempts_are_noted_and_a_killed_one_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    offline = Run("run", "g", {}, mode="offline")
    with pytest.raises(Unfinished), Tracker(tmp_path, offline, step=0, until=9) as tracker:
        tracker.log(3, {"train/loss": 1.0})
        raise Unfinished("time is up")
    killed = Tracker(tmp_path, offline, step=3, until=9)  # never left: as after a SIGKILL
    killed.run.finish()
    with Tracker(tmp_path, offline, step=3, until=9):
        pass
    rows = read_attempts(tmp_path)
    assert [(r["event"], r["step"]) for r in rows] == [("begun", 0), ("ended", 3), ("begun", 3), ("begun", 3), ("ended", 3)]
    assert rows[1]["reason"] == "Unfinished" and rows[-1]["reason"] == "finished"
    assert len({r["wandb"] for r in rows if r["event"] == "begun"}) == 1, "one W&B run for all attempts"
    assert "was killed; its W&B run is continued" in capsys.readouterr().err
