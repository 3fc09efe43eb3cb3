"""States of other settings are kept, come back with their settings, and make room only where it is needed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mvfl.runtime.fingerprint import Fingerprint
from mvfl.runtime.training_state import TrainingState


def mark(rate: float) -> Fingerprint:
    return Fingerprint({"training": {"learning_rate": rate}}, {"base": "b"}, "code")


def begun(folder: Path, rate: float, **options: float) -> TrainingState:
    return TrainingState(folder / "states", mark(rate), **options)


def test_a_change_is_named_and_taking_it_back_brings_the_states_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begun(tmp_path, 1e-4).save(3, {"x": torch.ones(2)})
    (tmp_path / "log.jsonl").write_text("of the first run\n")
    (tmp_path / "best.safetensors").write_text("of the first run")
    other = begun(tmp_path, 5e-4)
    assert other.load(9) == (0, None) and not (tmp_path / "log.jsonl").exists()
    assert "Changed since the saved state: settings.training.learning_rate: starting anew" in capsys.readouterr().err
    other.save(1, {"x": torch.zeros(2)})
    assert not (tmp_path / "best.safetensors").exists()
    (tmp_path / "best.safetensors").write_text("of the second run")
    back = begun(tmp_path, 1e-4)
    step, state = back.load(9)
    assert step == 3 and state is not None and torch.equal(state["x"], torch.ones(2))
    assert (tmp_path / "log.jsonl").read_text() == "of the first run\n"
    assert (tmp_path / "best.safetensors").read_text() == "of the first run"
    assert "going on with the states that these settings left" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "older").iterdir()] == [mark(5e-4).value]


def test_older_states_go_first_when_room_is_needed(tmp_path: Path) -> None:
    begun(tmp_path, 1e-4).save(3, {"x": torch.zeros(250_000)})
    state = begun(tmp_path, 5e-4, budget_gigabytes=0.0025)
    state.save(1, {"x": torch.zeros(250_000)})
    assert list((tmp_path / "older").iterdir()), "both fit"
    state.save(2, {"x": torch.zeros(250_000)})
    assert list((tmp_path / "older").iterdir()) == [] and state.steps() == [1, 2]
