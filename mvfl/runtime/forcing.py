"""A forced stage is computed from its start: its half-done work is set aside before any job begins. Loads no torch."""

from __future__ import annotations

import shutil
from pathlib import Path

from mvfl.runtime.progress import say

NOTE = "forced"
# Numbers, pictures and best weights of one run.
RUN_FILES = ("log.jsonl", "attempts.jsonl", "wandb_id", "validation", "collapsed.json", "best.safetensors")


def set_aside(state: Path, beyond: int = 0) -> None:
    """Move what a stage would go on with into `older/forced`, where disk space can be taken from.

    Args:
        state: folder of a stage's state; it may not be there.
        beyond: of a training, states up to this step are kept: earlier segments left them.
    """
    found = [p for p in (state / "states").glob("step-*.pt") if int(p.stem.removeprefix("step-")) > beyond]
    generated = [p.parent for p in state.glob("*/sample_*")]
    if not found and not generated:
        return
    aside = state / "older" / NOTE
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    for path in dict.fromkeys([*found, *generated, *((state / name for name in RUN_FILES) if found and beyond == 0 else ())]):
        if path.exists():
            path.rename(aside / path.name)
    (state / NOTE).write_text(f"Forced: computed anew from step {beyond} on; what was there is in {aside}.\n", encoding="utf-8")


def announce(state: Path) -> None:
    """Say in a job's log that its stage was forced in this run."""
    if (state / NOTE).is_file():
        say((state / NOTE).read_text(encoding="utf-8").strip())


def forget(states: list[Path]) -> None:
    """Remove the notes of earlier runs."""
    for state in states:
        (state / NOTE).unlink(missing_ok=True)
