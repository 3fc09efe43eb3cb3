"""Training state that survives: atomic, verified saves outside declared outputs, resumption, stopping in time."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from mvfl.runtime.files import InputError, folder_bytes, sweep_partials, write_json, written_aside
from mvfl.runtime.fingerprint import MARK, Fingerprint, changed_parts
from mvfl.runtime.forcing import RUN_FILES
from mvfl.runtime.progress import say
from mvfl.runtime.reading import read_table, require_file
from mvfl.runtime.weights import tensors_in

SAVING_SHARE = 1 / 20  # of the time between saves that the timer may spend on saving
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)  # that ask a training to save itself and end
TIME_SPENT = "the time budget is nearly spent"
MARGIN = 1.0  # minutes of the time budget that are left for ending
LARGEST_RESERVE = 1 / 4  # of the time budget, kept free for saving


class StopRequest:
    """Becomes true on SIGTERM, SIGUSR1, Ctrl-C, or when the time budget is spent. A second Ctrl-C ends the job at once."""

    def __init__(self, minutes: float | None = None) -> None:
        self.reason: str | None = None
        self.reserve = 0.0  # seconds that saving takes beyond the margin
        self.began = time.monotonic()
        budget = None if minutes is None else max(minutes - MARGIN, 0.5 * minutes)
        self.deadline = None if budget is None else time.monotonic() + 60 * budget
        # The cluster's own clock started before this process did.
        if end := os.environ.get("SLURM_JOB_END_TIME"):
            left = int(end) - time.time() - 60 * MARGIN
            self.deadline = min(self.deadline or math.inf, time.monotonic() + left)
        self.handlers = {n: signal.signal(n, self._on_signal) for n in SIGNALS}

    def release(self) -> None:
        """Signals do again what they did before: what follows saves nothing."""
        for number, handler in self.handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            if self.reason is not None:
                raise KeyboardInterrupt
            say("Ctrl-C: the state is saved at the end of this step; once more ends without saving.")
        self.reason = f"received {signal.Signals(number).name}"

    @property
    def time_spent(self) -> bool:
        """Whether the budget, not a signal, is the reason."""
        return self.reason == TIME_SPENT

    def __bool__(self) -> bool:
        if self.reason is None and self.deadline is not None:
            # However slow the disk is, three quarters of the time are worked in: a job that only saved would never end.
            reserve = min(self.reserve, LARGEST_RESERVE * (self.deadline - self.began))
            if time.monotonic() > self.deadline - reserve:
                self.reason = TIME_SPENT
        return self.reason is not None


class TrainingState:
    """States of one training run in a folder of their own.

    States of other settings, data or code are set aside in `older/<fingerprint>` with the numbers and pictures of their run;
    they come back when the settings do, and go only when the disk or the budget is needed.

    Args:
        folder: outside every declared output, so that the workflow engine never deletes it.
        fingerprint: everything that makes a state usable.
        keep: how many states to keep.
        save_minutes: `due` becomes true after this time since the last save.
        budget_gigabytes: what all states together may take; no limit when left out.
    """

    def __init__(
        self,
        folder: Path,
        fingerprint: Fingerprint,
        keep: int = 2,
        save_minutes: float = 2.0,
        budget_gigabytes: float | None = None,
    ) -> None:
        self.folder, self.keep, self.save_minutes = folder, keep, save_minutes
        self.older = folder.with_name("older")
        self.budget = math.inf if budget_gigabytes is None else 1e9 * budget_gigabytes
        folder.mkdir(parents=True, exist_ok=True)
        sweep_partials(folder)
        mark = folder / MARK
        if mark.exists():
            old = read_table(mark, f"delete {folder} to start anew")
            if old.get("fingerprint") != fingerprint.value:
                self._exchange(old, fingerprint)
        if not mark.exists():
            write_json(mark, {"fingerprint": fingerprint.value, "parts": fingerprint.to_json()})
        self.saved_at, self.save_took = time.monotonic(), 0.0

    def _exchange(self, old: dict[str, Any], new: Fingerprint) -> None:
        """Set the present states aside and take back those of `new`, where there are some."""
        parts = old.get("parts")
        changed = changed_parts(parts, new.to_json()) if isinstance(parts, dict) else ["what an older mvfl recorded"]
        name = str(old.get("fingerprint"))
        aside = self.older / (name if name.isalnum() else "unknown")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        self._move(self.folder.parent, aside)
        returned = self.older / new.value
        came_back = returned.is_dir()
        if came_back:
            self._move(returned, self.folder.parent)
            shutil.rmtree(returned)
        self.folder.mkdir(exist_ok=True)
        how = "going on with the states that these settings left" if came_back else "starting anew"
        say(f"Changed since the saved state: {', '.join(changed)}: {how}; the states before are kept in {aside}.")

    def _move(self, source: Path, target: Path) -> None:
        """States, numbers and pictures of one run; those of two runs must not mix."""
        for name in (self.folder.name, *RUN_FILES):
            if (source / name).exists():
                (source / name).rename(target / name)

    def _files(self) -> list[Path]:
        return sorted(p for p in self.folder.glob("step-*.pt") if p.stem.removeprefix("step-").isdecimal())

    def steps(self) -> list[int]:
        """Steps for which a state is there."""
        return [_step_of(p) for p in self._files()]

    @property
    def due(self) -> bool:
        """Whether the last save is `save_minutes` old; longer where saving itself takes its time."""
        return time.monotonic() - self.saved_at > max(60 * self.save_minutes, self.save_took / SAVING_SHARE)

    def _make_room(self, needed: int, step: int) -> None:
        """See that a state of a step fits the disk and the budget; states of other settings go first.

        The newest state up to that step never goes: a job that is killed while it writes goes on from there.
        """
        while (files := self._files()) or self._set_aside():
            others = self._set_aside()
            taken = sum(f.stat().st_size for f in files) + sum(folder_bytes(f) for f in others)
            free = shutil.disk_usage(self.folder).free
            if needed <= free and needed + taken <= self.budget:
                return
            if others:
                say(f"Little room in {self.folder}: {others[0]} goes.")
                shutil.rmtree(others[0])
            elif spare := [f for f in files if f != max((e for e in files if _step_of(e) <= step), default=files[-1])]:
                say(f"Little room in {self.folder}: {spare[0].name} goes.")
                spare[0].unlink()
            else:
                raise InputError(
                    f"No room for another training state of {needed / 1e9:.2f} GB in {self.folder}: {free / 1e9:.2f} GB are free, "
                    f"states may take {self.budget / 1e9:.2f} GB. {files[0].name} is kept; free some space and run again."
                )

    def _set_aside(self) -> list[Path]:
        """Folders of states of other settings, oldest first."""
        return sorted(self.older.glob("*"), key=lambda p: p.stat().st_mtime)

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write, read back and compare; only then older states may go."""
        began = time.monotonic()
        self._make_room(sum(t.nbytes for t in tensors_in(state)), step)
        path = self.folder / f"step-{step:08d}.pt"
        with written_aside(path) as temporary:
            torch.save(state, temporary)
            written = torch.load(temporary, map_location="cpu", mmap=True, weights_only=True)
            if sum(1 for _ in tensors_in(written)) != sum(1 for _ in tensors_in(state)):
                raise InputError(f"The state written to {path} misses tensors; is the disk full?")
        # States beyond this step belong to a later segment of the same run.
        earlier = [p for p in self._files() if _step_of(p) <= step]
        for old in earlier[: -self.keep]:
            old.unlink()
        self.saved_at = time.monotonic()
        self.save_took = self.saved_at - began

    def load(self, at_most: int) -> tuple[int, dict[str, Any] | None]:
        """The newest readable state at or before a step, or (0, None).

        A state that holds no state is set aside by name and the one before it is used, saying so.

        Raises:
            OSError: the disk or the network file system fails; the state may be whole, so that the job is to be tried again.
        """
        for path in reversed(self._files()):
            step = _step_of(path)
            if step > at_most:
                continue
            try:
                state = torch.load(require_file(path, "train again"), map_location="cpu", mmap=True, weights_only=True)
                if not isinstance(state, dict):
                    raise ValueError(f"it holds a {type(state).__name__}")
                return step, state
            except OSError:
                raise
            except Exception as error:
                say(f"{path} cannot be read ({error}); it is set aside and the state before it is used.")
                with contextlib.suppress(FileNotFoundError):  # another process of this job did it
                    path.rename(path.with_suffix(".broken"))
        return 0, None


def _step_of(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))
