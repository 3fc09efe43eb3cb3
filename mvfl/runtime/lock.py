"""Before a run starts: nobody else writes there, the disk suffices, the last run is over."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from mvfl.runtime.files import InputError, folder_bytes
from mvfl.runtime.progress import say
from mvfl.runtime.reading import read_table

REQUEUE_PATIENCE = 90.0  # seconds; SLURM's KillWait is 30 by default


class Busy(InputError):
    """Another job writes there; later it will not."""


@contextlib.contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold `<folder>/lock` with host, process id and SLURM job; a lock whose holder is gone is taken over.

    A job that SLURM requeued waits for its former self to end.

    Raises:
        Busy: another live job holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "lock"
    mine = _this_process()
    patience = time.monotonic() + REQUEUE_PATIENCE
    while True:
        draft = path.with_name(f".lock-{mine['host']}-{mine['pid']}")
        draft.write_text(json.dumps(mine), encoding="utf-8")
        try:
            _claim(draft, path)
            break
        except FileExistsError:
            holder = holder_of(path)
            if holder is not None and is_alive(holder, mine):
                if mine["slurm_job"] and holder.get("slurm_job") == mine["slurm_job"] and time.monotonic() < patience:
                    time.sleep(1)  # this job before its requeue: SLURM is about to end it
                    continue
                who = f"SLURM job {holder['slurm_job']}" if holder.get("slurm_job") else f"process {holder['pid']}"
                raise Busy(
                    f"{folder} is being written by {who} on {holder['host']}. Wait for it or end it; if it is surely gone, "
                    f"delete {path}."
                ) from None
            _remove_if_still(path, holder)
        finally:
            draft.unlink(missing_ok=True)
    try:
        yield
    finally:
        if holder_of(path) == mine:
            path.unlink(missing_ok=True)


def _claim(draft: Path, path: Path) -> None:
    """Give a lock its name: it appears whole or not at all; on disks without hard links, empty for a moment."""
    try:
        os.link(draft, path)
    except FileExistsError:
        raise
    except OSError:
        with open(path, "x", encoding="utf-8") as handle:
            handle.write(draft.read_text(encoding="utf-8"))


def _remove_if_still(path: Path, holder: dict[str, str | int | None] | None) -> None:
    """Take a dead holder's lock away, unless another job did so meanwhile and holds it now."""
    aside = path.with_name(f".gone-{socket.gethostname()}-{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        os.replace(path, aside)
        if holder_of(aside) == holder:
            say(f"The holder of {path} is gone; taking over.")
        else:
            with contextlib.suppress(FileExistsError):
                _claim(aside, path)
    aside.unlink(missing_ok=True)


def _this_process() -> dict[str, str | int | None]:
    return {"host": socket.gethostname(), "pid": os.getpid(), "slurm_job": os.environ.get("SLURM_JOB_ID")}


def holder_of(path: Path) -> dict[str, str | int | None] | None:
    """Who holds a lock file; None where nobody does, or where the file does not say it."""
    try:
        holder = read_table(path, "nobody holds it")
    except InputError:
        return None
    named = isinstance(holder.get("host"), str) and isinstance(pid := holder.get("pid"), int) and 0 < pid < 2**31
    return holder if named else None


def holders_of(state: Path) -> list[dict[str, str | int | None]]:
    """Who holds locks of a stage's state or of its pieces, dead or alive."""
    return [h for lock in [state / "lock", *state.glob("*/lock")] if (h := holder_of(lock)) is not None]


def is_alive(holder: dict[str, str | int | None], mine: dict[str, str | int | None] | None = None) -> bool:
    """Whether the holder may still run; on another machine without SLURM nobody can tell, so it counts as alive."""
    mine = mine or _this_process()
    job = holder.get("slurm_job")
    if job and job != mine["slurm_job"] and shutil.which("squeue"):
        command = ["timeout", "60", "squeue", "-h", "-t", "all", "-j", str(job), "-o", "%T"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 0:
            return "RUNNING" in done.stdout or "COMPLETING" in done.stdout
        return "Invalid job id" not in done.stderr  # an answer that never came proves nothing
    if job and job == mine["slurm_job"] and holder["host"] != mine["host"]:
        return False  # the same job, requeued to another node
    if holder["host"] != mine["host"]:
        return True
    return psutil.pid_exists(int(holder["pid"] or 0))


def require_space(folder: Path, needed: int, what: str, setting: str) -> None:
    """Refuse to start when fewer than `needed` bytes are free.

    Args:
        folder: where they will be written.
        needed: bytes.
        what: who needs them.
        setting: which setting makes it fewer.

    Raises:
        InputError: names the folder, the need and what is free.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # What an earlier run left here is counted in the need already.
    own = folder_bytes(folder)
    free = shutil.disk_usage(folder).free + own
    if free < needed:
        raise InputError(
            f"{what} needs about {needed / 1e9:.1f} GB in {folder}, {free / 1e9:.1f} GB are free. Free some space, or lower "
            f"{setting}."
        )
