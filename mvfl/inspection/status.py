"""`mvfl status` and `mvfl logs`: how far every stage is, from its log, its lock and SLURM's queue; no job is touched."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from rich import box
from rich.table import Table

from mvfl.layout import Layout
from mvfl.runtime.files import InputError, folder_bytes
from mvfl.runtime.fingerprint import MARK
from mvfl.runtime.lock import holders_of, is_alive
from mvfl.runtime.reading import read_table
from mvfl.runtime.tracking import read_attempts, read_log

STAGES = ("mvdiffusion", "synthetic", "gslrm")
RULES = {"mvdiffusion": "train_mvdiffusion", "synthetic": "generate_synthetic", "gslrm": "finetune_gslrm"}


@dataclass(frozen=True)
class StageStatus:
    """One line of the table; None where nothing is known.

    Attributes:
        experiment, stage: names.
        state: SLURM's word with the job id, or running, stopped, killed, finished.
        step, until: optimiser steps (samples made in the stage `synthetic`).
        loss: last logged.
        rate: objects per second, last logged.
        eta: seconds.
        gpu_memory, gpu_load: GiB and per cent, last logged.
        saved: newest saved training state.
        gigabytes: size of the stage's state folder.
    """

    experiment: str
    stage: str
    state: str
    step: int | None = None
    until: int | None = None
    loss: float | None = None
    rate: float | None = None
    eta: float | None = None
    gpu_memory: float | None = None
    gpu_load: float | None = None
    saved: int | None = None
    gigabytes: float | None = None


def slurm_queue() -> dict[str, tuple[str, str]]:
    """Job id -> (state, comment with rule and wildcards) of the user's jobs; empty without SLURM."""
    if not shutil.which("squeue"):
        return {}
    command = ["timeout", "20", "squeue", "-h", "--me", "-o", "%i|%T|%k"]
    done = subprocess.run(command, capture_output=True, text=True)
    rows = [line.split("|", 2) for line in done.stdout.splitlines()]
    return {row[0]: (row[1], row[2]) for row in rows if len(row) == 3}


def _state_of(folder: Path, queue: dict[str, tuple[str, str]]) -> str:
    """What the lock, the queue and the last attempt say."""
    words = []
    for holder in holders_of(folder):
        job = holder.get("slurm_job")
        if job and str(job) in queue:
            words.append(f"{queue[str(job)][0]} {job}")
        else:
            words.append(f"running, {holder['host']}:{holder['pid']}" if is_alive(holder) else "killed")
    if words:
        return "; ".join(sorted(words))
    attempts = read_attempts(folder)
    if not attempts:
        return "stopped"
    if attempts[-1]["event"] == "begun":
        return "killed"
    return "finished" if attempts[-1]["reason"] == "finished" else f"stopped ({attempts[-1]['reason']})"


def _trained(experiment: str, stage: str, folder: Path, queue: dict[str, tuple[str, str]]) -> StageStatus:
    log = folder / "log.jsonl"
    rows = [r for r in read_log(log) if "train/loss" in r] if log.is_file() else []
    last: dict[str, Any] = rows[-1] if rows else {}
    attempts = read_attempts(folder)
    until = next((a["until"] for a in reversed(attempts) if isinstance(a.get("until"), int)), None)
    step = last.get("step")
    eta = None
    if step is not None and until:
        # The median leaves out the gaps of interruptions.
        paces = [(b["time"] - a["time"]) / (b["step"] - a["step"]) for a, b in pairwise(rows[-20:]) if b["step"] > a["step"]]
        eta = (until - step) * median(paces) if paces else None
    saved = max((int(p.stem[5:]) for p in (folder / "states").glob("step-*.pt") if p.stem[5:].isdecimal()), default=None)
    size = folder_bytes(folder) / 1e9
    return StageStatus(
        experiment, stage, _state_of(folder, queue), step, until, last.get("train/loss"), last.get("train/objects_per_second"),
        eta, last.get("train/gpu_memory_gib"), last.get("train/gpu_load"), saved, size,
    )  # fmt: skip


def read_status(results: Path, queue: dict[str, tuple[str, str]] | None = None) -> list[StageStatus]:
    """All stages that have begun, then jobs that still wait in SLURM's queue.

    Args:
        results: results folder.
        queue: of `slurm_queue`; asked for when left out.
    """
    queue = slurm_queue() if queue is None else queue
    out = []
    for folder in Layout(results).states():
        experiment, stage = folder.parent.name, folder.name
        if stage == "synthetic":
            mark = folder / MARK  # of the settings, weights and data that are drawn with now
            now = read_table(mark, f"delete {mark}").get("fingerprint", "") if mark.is_file() else ""
            made = len(list((folder / str(now)).glob("sample_*")))
            size = folder_bytes(folder) / 1e9
            state = _state_of(folder, queue)
            joined = Layout(results).synthetic(experiment)
            done = joined.exists() and joined.stat().st_mtime >= (mark.stat().st_mtime if mark.is_file() else 0)
            out.append(StageStatus(experiment, stage, "finished" if done and state == "stopped" else state, made, gigabytes=size))
        elif stage in STAGES:
            out.append(_trained(experiment, stage, folder, queue))
    for job, (state, comment) in sorted(queue.items()):
        waiting = next((s for s, rule in RULES.items() if rule in comment), None)
        if waiting and state == "PENDING":
            out.append(StageStatus(comment.split("wildcards_")[-1], waiting, f"PENDING {job}"))
    return out


def status_table(rows: list[StageStatus], results: Path) -> Table:
    """The table for a terminal; columns of which nothing is known are left out."""
    shown: Callable[[float | None, str], str] = lambda v, form: "" if v is None else format(v, form)  # noqa: E731
    columns: dict[str, list[str]] = {
        "experiment": [r.experiment for r in rows],
        "stage": [r.stage for r in rows],
        "state": [r.state for r in rows],
        "step": [shown(r.step, "d") + (f"/{r.until}" if r.until and r.step is not None else "") for r in rows],
        "loss": [shown(r.loss, ".4f") for r in rows],
        "objects/s": [shown(r.rate, ".1f") for r in rows],
        "ETA": [str(timedelta(seconds=round(r.eta))) if r.eta else "" for r in rows],
        "GPU GiB": [shown(r.gpu_memory, ".1f") for r in rows],
        "GPU %": [shown(r.gpu_load, ".0f") for r in rows],
        "saved": [shown(r.saved, "d") for r in rows],
        "GB": [shown(r.gigabytes, ".2f") for r in rows],
    }
    free = shutil.disk_usage(results).free / 1e9
    title = f"{results.name}, {time.strftime('%H:%M:%S')}, {free:.0f} GB free"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0))
    known = {name: cells for name, cells in columns.items() if any(cells) or name in ("experiment", "stage", "state")}
    for name in known:
        table.add_column(name, no_wrap=name != "state", overflow="fold", min_width=9 if name == "state" else None)
    for cells in zip(*known.values(), strict=True):
        table.add_row(*cells)
    return table


def newest_log(results: Path, experiment: str) -> Path:
    """The log of an experiment that was written last.

    Raises:
        InputError: there is none.
    """
    logs = [p for p in Layout(results).logs() if re.fullmatch(rf"{re.escape(experiment)}(-\d+|-\d+-of-\d+)?", p.stem)]
    if not logs:
        names = sorted({p.name for p in results.glob("experiments/*")} | {p.parent.name for p in Layout(results).states()})
        raise InputError(f"No log of '{experiment}' in {results / 'logs'}; experiments there: {', '.join(names) or 'none'}.")
    return max(logs, key=lambda p: p.stat().st_mtime)


def log_lines(results: Path, experiment: str, last: int, follow: bool, pause: float = 1.0) -> Iterator[str]:
    """Lines of the newest log; while following, also of logs that come later (the next stage, the next attempt)."""
    path = newest_log(results, experiment)
    yield f"==> {path}"
    with open(path, encoding="utf-8", errors="replace") as handle:
        yield from deque((line.rstrip("\n") for line in handle), last)
        place, identity = handle.tell(), path.stat().st_ino
    while follow:
        time.sleep(pause)
        try:
            newest = newest_log(results, experiment)
            info = newest.stat()
        except (InputError, FileNotFoundError):
            continue  # a new attempt has just removed the file
        if newest != path or info.st_ino != identity or info.st_size < place:
            path, identity, place = newest, info.st_ino, 0
            yield f"==> {path}"
        with open(path, encoding="utf-8", errors="replace") as handle:
            handle.seek(place)
            while (line := handle.readline()).endswith("\n"):
                yield line.rstrip("\n")
                place = handle.tell()


def as_json(rows: list[StageStatus]) -> str:
    """The same for programs."""
    return json.dumps([vars(r) for r in rows], indent=1)
