"""Options that commands share, and what each command does first."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from mvfl.runtime.files import InputError

Number = TypeVar("Number", int, float)
Log = Annotated[
    Path | None, typer.Option("--log", help="progress lines go to the end of this file; to the terminal, too, if there is one")
]
Threads = Annotated[int, typer.Option("--threads", help="CPU threads or processes", min=1)]
Minutes = Annotated[float | None, typer.Option(help="time budget; the stage saves and stops before it is spent")]

TERMINATED = 143  # 128 + SIGTERM, as shells say
PEOPLE, LOOK, PLUMBING = "What people type first", "Looking", "Stages, as the workflow calls them"


def _end_in_words(_number: int, _frame: object) -> None:
    """A job that is told to end was not killed for its memory."""
    from mvfl.runtime.endings import note_ending

    note_ending("failed")
    raise SystemExit(TERMINATED)


def begin(log: Path | None, threads: int) -> int:
    """Open the log and use the cores that the scheduler gave; returns how many that are."""
    from mvfl.runtime.endings import begin_note
    from mvfl.runtime.progress import open_log
    from mvfl.runtime.threads import limit_threads

    open_log(log)
    begin_note(log)
    signal.signal(signal.SIGTERM, _end_in_words)  # stages that save their work handle it themselves
    used = min(threads, os.cpu_count() or threads)
    limit_threads(used)
    return used


def show(findings: Iterable[tuple[str, bool, str]]) -> None:
    """Print part, whether it is in order, and what was found, of each thing looked at; status 1 when one is not in order."""
    every = True
    for part, good, text in findings:
        every &= good
        typer.echo(f"{'ok ' if good else 'BAD'}  {part:<24} {text}")
    if not every:
        raise typer.Exit(1)


def numbers(option: str, text: str, kind: type[Number], count: int | None = None, names: str = "") -> tuple[Number, ...]:
    """Numbers that are parted by commas.

    Args:
        option: for the sentence.
        text: what was typed.
        kind: int or float.
        count: how many there must be; default: any.
        names: of them.

    Raises:
        InputError: something else.
    """
    try:
        found = tuple(kind(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or (count is not None and len(found) != count) or not all(math.isfinite(value) for value in found):
        what = f"{count} " * bool(count) + ("whole numbers" if kind is int else "numbers")
        called = f" ({names})" * bool(names)
        raise InputError(f"{option} takes {what} parted by commas{called}; got {text}.")
    return found
