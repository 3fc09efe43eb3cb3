"""How a job ends, and what the workflow makes of it: go on later, never again, or once more.

A job notes how it ended in a small file beside its log. Snakemake's own retries know only success and failure; the note tells it
that a spent time budget is no failure, that a mistake stays one however often it is tried, and that memory ran out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

from mvfl.runtime.launch import is_first_process

EXIT_UNFINISHED = 75  # EX_TEMPFAIL: run me again and I go on
Ending = Literal["running", "done", "failed", "time_spent", "mistake"]
_note: Path | None = None


class Unfinished(Exception):
    """The job stopped itself in good order before its last step; running it again goes on from the saved state."""


class TimeSpent(Unfinished):
    """It stopped because its time budget was nearly spent."""


class Collapsed(Exception):
    """Training was ended because the views repeat the input or stand in the wrong slots."""


class Note(NamedTuple):
    """How a job ended.

    Attributes:
        word: the ending, or `running` of a job that runs or was killed without a word.
        kills: how often in a row it was killed without a word before.
        spent: how often it has spent its time budget in this run of the workflow.
    """

    word: str = "unknown"
    kills: int = 0
    spent: int = 0


def note_beside(log: Path) -> Path:
    """Where a job notes how it ended."""
    return log.with_name(f"{log.name}.ending")


def read_note(file: Path) -> Note:
    """The note in a file; an unknown ending where there is none."""
    try:
        word, kills, spent = file.read_text(encoding="utf-8").split()
        return Note(word, int(kills), int(spent))
    except (OSError, ValueError):
        return Note()


def _write(note: Note) -> None:
    if _note is not None:
        with contextlib.suppress(OSError):  # a full disk has its own sentence
            _note.parent.mkdir(parents=True, exist_ok=True)
            _note.write_text(f"{note.word} {note.kills} {note.spent}\n", encoding="utf-8")


def begin_note(log: Path | None) -> None:
    """From here on `note_ending` writes beside this log; until then the job counts as running, or as killed."""
    global _note
    _note = note_beside(log) if log is not None and is_first_process() else None
    if _note is not None:
        before = read_note(_note)
        _write(Note("running", killed(_note), before.spent))


def note_ending(ending: Ending) -> None:
    """Note how this process's job ended, where it has a log. An end in words ends a row of kills."""
    if _note is not None:
        _write(Note(ending, 0, read_note(_note).spent + (ending == "time_spent")))


def killed(note: Path) -> int:
    """How often in a row a job was killed without a word, as the kernel does when memory runs out."""
    found = read_note(note)
    return found.kills + (found.word == "running")


def forget_notes(logs: Path) -> None:
    """Remove the notes of an earlier run of the workflow."""
    for file in logs.glob("**/*.ending"):
        file.unlink(missing_ok=True)


def growing(megabytes: int | Callable[[Any], int], log: str) -> Callable[[Any, int], int]:
    """Memory of a rule's jobs, for `resources`: more after each attempt that was killed without a word.

    Args:
        megabytes: of the first attempt; a function of the wildcards where they decide it.
        log: pattern of the rule's logs.
    """

    def memory(wildcards: Any, attempt: int) -> int:
        kills = killed(note_beside(Path(log.format(**dict(wildcards.items()))))) if attempt > 1 else 0
        first = megabytes if isinstance(megabytes, int) else megabytes(wildcards)
        return first * (1 + kills)

    return memory


def allowed_restarts(logs: list[str], usual: int) -> int:
    """How often a job that has just failed may be started again in this run of the workflow, all its restarts counted.

    Args:
        logs: of the job.
        usual: restarts that the profile allows.
    """
    found = read_note(note_beside(Path(logs[0]))) if logs else Note()
    return 0 if found.word == "mistake" else usual + found.spent
