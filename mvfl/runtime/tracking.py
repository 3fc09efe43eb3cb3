"""Numbers and pictures of a run: a JSONL file always, Weights & Biases beside it."""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from PIL import Image

from mvfl.runtime.files import InputError
from mvfl.runtime.progress import say
from mvfl.runtime.reading import parse_json, require_file

Mode = Literal["online", "offline", "disabled", "shared"]


@dataclass(frozen=True)
class Run:
    """A W&B run, as the configuration names it.

    Attributes:
        name, group: of the run.
        config: hyperparameters to record.
        project, entity: where it belongs.
        mode: `auto` is online with a key and offline without.
    """

    name: str
    group: str
    config: dict[str, Any]
    project: str = "mouse_facelift"
    entity: str | None = None
    mode: Literal["auto", "online", "offline", "disabled"] = "auto"


class Tracker:
    """Logs to `<folder>/log.jsonl` and to a W&B run; a context manager, so that the run is finished on every way out.

    Args:
        folder: holds the log, the W&B id (a resumed job continues the same run) and offline data.
        run: what W&B is told.
        active: false on all processes but the first.
        step: optimiser steps done before this attempt.
        until: step at which the run ends.

    Each attempt at a run also leaves a line in `<folder>/attempts.jsonl` when it begins and when it ends.
    """

    def __init__(self, folder: Path, run: Run, active: bool = True, step: int = 0, until: int | None = None) -> None:
        self.folder, self.active, self.step = folder, active, step
        self.run: Any = None
        if not active:
            return
        folder.mkdir(parents=True, exist_ok=True)
        self.file = open(folder / "log.jsonl", "a", encoding="utf-8", buffering=1)
        self._check_last_attempt()
        mode: Mode = run.mode if run.mode != "auto" else automatic_mode()
        if run.mode == "auto" and mode == "offline":
            say("No W&B key found: the run is recorded offline (`wandb sync` sends it later).")
        if mode != "disabled":
            mode = self._start(run, mode)
        self._note("begun", until=until, mode=mode, wandb=self.run.id if self.run is not None else None)

    def _start(self, run: Run, mode: Mode) -> Mode:
        """Begin or continue the W&B run; returns the mode that worked.

        Raises:
            InputError: `online` was asked for, and W&B cannot be reached.
        """
        import wandb

        id_file = self.folder / "wandb_id"
        if not id_file.exists():
            id_file.write_text(secrets.token_hex(4))

        def start(mode: Mode) -> Any:
            return wandb.init(
                project=run.project, entity=run.entity, name=run.name, group=run.group, config=run.config, mode=mode,
                dir=str(self.folder), id=id_file.read_text(), resume="allow" if mode == "online" else None,
                settings=wandb.Settings(console="off", silent=True),
            )  # fmt: skip

        try:
            self.run = start(mode)
        except wandb.errors.Error as error:
            if run.mode == "online":
                raise InputError(f"W&B cannot be reached ({error}); set wandb.mode to offline or auto.") from error
            say(f"W&B cannot be reached ({error}): the run is recorded offline (`wandb sync` sends it later).")
            mode = "offline"
            self.run = start(mode)
        return mode

    def _note(self, event: str, **more: Any) -> None:
        place = {"host": socket.gethostname(), "pid": os.getpid(), "slurm_job": os.environ.get("SLURM_JOB_ID")}
        row = {"event": event, "time": round(time.time(), 3), "step": self.step, **place, **more}
        with open(self.folder / "attempts.jsonl", "a", encoding="utf-8") as handle:
            print(json.dumps(row), file=handle)

    def _check_last_attempt(self) -> None:
        """The lock has shown that nobody else runs: an attempt that never ended was killed, and its W&B run is open."""
        attempts = read_attempts(self.folder)
        if attempts and attempts[-1]["event"] == "begun":
            last = attempts[-1]
            who = f"SLURM job {last['slurm_job']}" if last["slurm_job"] else f"process {last['pid']}"
            say(f"The last attempt ({who} on {last['host']}, from step {last['step']}) was killed; its W&B run is continued.")

    def log(self, step: int, values: dict[str, float]) -> None:
        """Record scalars of one step; NaN is kept as null in the file."""
        if not self.active:
            return
        self.step = step
        clean = {k: (v if math.isfinite(v) else None) for k, v in values.items()}
        print(json.dumps({"step": step, "time": round(time.time(), 3), **clean}), file=self.file)
        if self.run is not None:
            self.run.log(values, step=step)

    def log_image(self, name: str, path: Path, step: int) -> None:
        """Record a picture that lies on disk."""
        if self.run is not None:
            import wandb

            self.run.log({name: wandb.Image(Image.open(path))}, step=step)

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None) -> None:
        if not self.active:
            return
        self.file.close()
        if self.run is not None:
            self.run.finish(exit_code=0 if kind is None else 1)
        self._note("ended", reason="finished" if kind is None else kind.__name__)


def automatic_mode() -> Mode:
    """What `auto` means here: WANDB_MODE where it is set, else online with a key and offline without."""
    match os.environ.get("WANDB_MODE"):
        case "disabled":
            return "disabled"
        case "offline":
            return "offline"
        case "online":
            return "online"
    has_key = "WANDB_API_KEY" in os.environ or (
        (Path.home() / ".netrc").is_file() and "wandb" in (Path.home() / ".netrc").read_text()
    )
    return "online" if has_key else "offline"


def _rows(path: Path, keys: dict[str, type | tuple[type, ...]]) -> Iterator[dict[str, Any]]:
    """Rows of a JSON-lines file that have some keys; a killed job may have left half a line, a disk a damaged one.

    Args:
        path: the file.
        keys: name and type of what each row must have.

    Raises:
        InputError: no ordinary file, or missing.
    """
    for line in require_file(path, "train first").read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            row = parse_json(line)
            if isinstance(row, dict) and all(_is(row.get(k), kind) for k, kind in keys.items()):
                yield row


NUMBER = (int, float)


def read_attempts(folder: Path) -> list[dict[str, Any]]:
    """Beginnings and ends of the attempts at a run, oldest first."""
    path = folder / "attempts.jsonl"
    rows = _rows(path, {"event": str, "step": int}) if path.is_file() else ()
    return [{"host": "an unknown machine", "pid": None, "slurm_job": None, "reason": "unknown", **row} for row in rows]


def read_log(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSONL log; where steps repeat after a resumption the later row wins.

    Raises:
        InputError: missing, or no ordinary file.
    """
    whole = (row for row in _rows(path, {"step": int, "time": NUMBER}) if _is_logged(row))
    rows = {(row["step"], tuple(sorted(row))): row for row in whole}
    return sorted(rows.values(), key=lambda r: r["step"])


def _is_logged(row: dict[str, Any]) -> bool:
    """Whether all values are numbers, or null for NaN."""
    return all(value is None or _is(value, NUMBER) for value in row.values())


def _is(value: Any, kind: type | tuple[type, ...]) -> bool:
    """Whether a value has a type; true and false are no numbers here."""
    return isinstance(value, kind) and not isinstance(value, bool)
