"""Before a run starts: nobody else writes there, and the disk suffices."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mvfl.runtime.files import InputError
from mvfl.runtime.lock import only_writer, require_space


def test_a_second_writer_is_refused_and_a_dead_one_is_replaced(tmp_path: Path) -> None:
    with (
        only_writer(tmp_path / "s"),
        pytest.raises(InputError, match=rf"is being written by process {os.getpid()} on"),
        only_writer(tmp_path / "s"),
    ):
        pass
    gone = subprocess.Popen([sys.executable, "-c", "pass"])
    gone.wait()
    (tmp_path / "s" / "lock").write_text(json.dumps({"host": socket.gethostname(), "pid": gone.pid, "slurm_job": None}))
    with only_writer(tmp_path / "s"):
        assert json.loads((tmp_path / "s" / "lock").read_text())["pid"] == os.getpid()
    assert not (tmp_path / "s" / "lock").exists()


def test_a_disk_without_hard_links_is_locked_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    with only_writer(tmp_path / "s"), pytest.raises(InputError, match="is being written by"), only_writer(tmp_path / "s"):
        pass
    assert not (tmp_path / "s" / "lock").exists()


def test_a_lock_that_another_job_took_over_meanwhile_stays_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both found the holder dead; asking the queue takes seconds."""
    lock, host = tmp_path / "s" / "lock", socket.gethostname()
    lock.parent.mkdir()
    lock.write_text(json.dumps({"host": host, "pid": 2**22 + 1, "slurm_job": None}))
    theirs = {"host": host, "pid": os.getppid(), "slurm_job": None}

    def slow(holder: dict[str, object], _mine: object = None) -> bool:
        if holder["pid"] == 2**22 + 1:
            lock.write_text(json.dumps(theirs))
            return False
        return True

    monkeypatch.setattr("mvfl.runtime.lock.is_alive", slow)
    with pytest.raises(InputError, match=f"written by process {os.getppid()}"), only_writer(tmp_path / "s"):
        pass
    assert json.loads(lock.read_text()) == theirs


def test_too_little_space_is_found_before_the_start(tmp_path: Path) -> None:
    require_space(tmp_path, 1000, "Training", "training.keep_states")
    with pytest.raises(InputError, match=r"Training needs about 1000000\.0 GB.* or lower training\.keep_states"):
        require_space(tmp_path, 10**15, "Training", "training.keep_states")
