"""Progress: a bar with the remaining time on a terminal, one clean line now and then in the log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

T = TypeVar("T")
BETWEEN_LINES = 15.0  # seconds between lines of a log
_log: TextIO | None = None
_listeners: list[list[str]] = []


def open_log(path: Path | None) -> None:
    """Send log lines of this process to a file (appending); where stderr is a terminal, they appear there, too."""
    global _log
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        _log = open(path, "a", encoding="utf-8", buffering=1)


def say(message: str) -> None:
    """Write one line to the log file and, where nobody watches a bar, to stderr."""
    for listener in _listeners:
        listener.append(message)
    line = f"{time.strftime('%H:%M:%S')} {message}"
    if _log is not None:
        print(line, file=_log)
    if _log is None or sys.stderr.isatty():
        print(line, file=sys.stderr, flush=True)


def complain(message: str) -> None:
    """Write one line to the log file and to stderr, so that whoever called the command sees it, too."""
    say(message)
    if _log is not None and not sys.stderr.isatty():
        print(message, file=sys.stderr, flush=True)


@contextmanager
def heard() -> Iterator[list[str]]:
    """What is said in this process meanwhile, for those who see neither log nor terminal."""
    lines: list[str] = []
    _listeners.append(lines)
    try:
        yield lines
    finally:
        _listeners.remove(lines)


class Bar:
    """A progress bar that is a context manager; `update` moves it and logs at most every few seconds."""

    def __init__(self, title: str, total: int, start: int = 0) -> None:
        self.title, self.total, self.start, self.done = title, total, start, start
        self.began = self.last_line = time.monotonic()
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("ETA"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
        )  # fmt: skip
        self.rich = RichProgress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True)
        self.task = self.rich.add_task(title, total=total, completed=start, note="")

    def __enter__(self) -> Bar:
        self.rich.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.rich.stop()
        say(f"{self.title}: {self.done}/{self.total} after {time.monotonic() - self.began:.1f} s")

    def update(self, done: int, note: str = "") -> None:
        """Set the number of finished units."""
        self.done = done
        self.rich.update(self.task, completed=done, note=note)
        now = time.monotonic()
        if now - self.last_line > BETWEEN_LINES:
            self.last_line = now
            rate = (done - self.start) / (now - self.began)
            eta = (self.total - done) / rate if rate > 0 else float("nan")
            say(f"{self.title}: {done}/{self.total}, {rate:.2f}/s, ETA {eta:.0f} s {note}".rstrip())


def tracked(items: Iterable[T], title: str, total: int) -> Iterator[T]:
    """Iterate with a bar."""
    with Bar(title, total) as bar:
        for i, item in enumerate(items, 1):
            yield item
            bar.update(i)
