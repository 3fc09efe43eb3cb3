"""`mvfl why`: what of a stage changed since its state was saved, and so whether it goes on or begins anew."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from mvfl.config.workflow import WorkflowConfig
from mvfl.records.base import BaseRecord
from mvfl.records.manifest import Manifest
from mvfl.runtime.files import InputError
from mvfl.runtime.fingerprint import MARK, Fingerprint, changed_parts
from mvfl.runtime.reading import read_table
from mvfl.stages import gslrm, pairs, train
from mvfl.stages.planning import Plan

Stage = Literal["train", "synthetic", "gslrm"]


def _train(plan: Plan, name: str) -> tuple[Path, Fingerprint]:
    job = plan.train(name, plan.verdict_step(name))
    return job.state / "states", train.fingerprint(job, BaseRecord.read(job.base))


def _synthetic(plan: Plan, name: str) -> tuple[Path, Fingerprint]:
    inputs = plan.generation(name)
    return inputs.state, pairs.fingerprint(inputs, Manifest.read(inputs.manifest))


def _gslrm(plan: Plan, name: str) -> tuple[Path, Fingerprint]:
    job = plan.gslrm(name)
    sources = gslrm.sources_of(job)
    return job.state / "states", gslrm.fingerprint(job.gslrm, gslrm.checkpoint_of(job.base), sources.batches())


STAGES: dict[Stage, Callable[[Plan, str], tuple[Path, Fingerprint]]] = {"train": _train, "synthetic": _synthetic, "gslrm": _gslrm}


def why(config: WorkflowConfig, experiment: str, stage: Stage) -> str:
    """One sentence: nothing is saved, nothing changed, or which parts of the fingerprint differ.

    Args:
        config: validated.
        experiment: its name.
        stage: one that saves its state.

    Raises:
        InputError: no such experiment, or an input of the stage is missing.
    """
    if experiment not in config.experiments:
        raise InputError(f"{experiment} is no experiment of this configuration; it has {', '.join(config.experiments)}.")
    try:
        state, now = STAGES[stage](Plan(config), experiment)
    except FileNotFoundError as error:
        return f"Another input than before, and still to be made: {error.filename}. The stage begins anew."
    mark = state / MARK
    if not mark.is_file():
        return f"Nothing is saved in {state}: the stage begins at its start."
    parts = read_table(mark, f"delete {state} to start anew").get("parts")
    changed = changed_parts(parts, now.to_json()) if isinstance(parts, dict) else ["what an older mvfl recorded"]
    if not changed:
        return f"Nothing that decides has changed since {state} was saved: the stage goes on, or only writes its results again."
    return f"Changed since {state} was saved: {', '.join(changed)}. The stage begins anew."
