"""How a job ends, and what the workflow makes of it: go on later, never again, or once more.

A job notes how it ended in a small file beside its log. Snakemake's own retries know only success and failure; the note tells it
that a spent time budget is no failure, that a mistake stays one however often it is tried, and that memory ran out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

EXIT_UNFINISHED = 75  # EX_TEMPFAIL: run me again and I go on
Ending = Literal["running", "done", "failed", "time_spent", "mistake"]
_note: Path | None = None


class Unfinished(Exception):
    """The job stopped itself in good order before its last step; running it again goes on from the saved state."""


class TimeSpent(Unfinished):
    """It stopped because its time budget was nearly spent."""


class Collapsed(Exception):
    """Training was ended because the views repeat the input or stand in the wrong slots."""


def note_beside(log: Path) -> Path:
    """Where a job notes how it ended."""
    return log.with_name(f"{log.name}.ending")


def begin_note(log: Path | None) -> None:
    """From here on `note_ending` writes beside this log; until then the job counts as running, or as killed."""
    global _note
    _note = None if log is None else note_beside(log)
    if _note is not None:
        kills = killed(_note)
        _note.parent.mkdir(parents=True, exist_ok=True)
        _note.write_text(f"running {kills}\n", encoding="utf-8")


def note_ending(ending: Ending) -> None:
    """Note how this process's job ended, where it has a log."""
    if _note is not None:
        with contextlib.suppress(OSError):  # a full disk has its own sentence
            _note.write_text(f"{ending} {killed(_note) if ending == 'time_spent' else 0}\n", encoding="utf-8")


def _read(note: Path) -> tuple[str, int]:
    try:
        word, kills = note.read_text(encoding="utf-8").split()
        return word, int(kills)
    except (OSError, ValueError):
        return "unknown", 0


def killed(note: Path) -> int:
    """How often in a row a job was killed without a word, as the kernel does when memory runs out."""
    word, kills = _read(note)
    return kills + (word == "running")


def growing(megabytes: int, log: str) -> Callable[[Any, int], int]:
    """Memory of a rule's jobs, for `resources`: more after each attempt that was killed without a word.

    Args:
        megabytes: of the first attempt.
        log: pattern of the rule's logs.
    """

    def memory(wildcards: Any, attempt: int) -> int:
        kills = killed(note_beside(Path(log.format(**dict(wildcards.items()))))) if attempt > 1 else 0
        return megabytes * (1 + kills)

    return memory


def allowed_restarts(logs: list[str], attempt: int, usual: int) -> int:
    """How often a job that has just failed may be started again, all its attempts counted.

    Args:
        logs: of the job.
        attempt: that failed, from 1.
        usual: restarts that the profile allows.
    """
    word = _read(note_beside(Path(logs[0])))[0] if logs else "unknown"
    return {"time_spent": attempt, "mistake": 0}.get(word, usual)
