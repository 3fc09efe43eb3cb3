"""Results that were made with other settings than the configuration's: Snakemake overlooks them where its own notes are gone.

Snakemake compares a rule's parameters with what it noted in `.snakemake`. Results that were moved, or whose notes were deleted,
have none; each folder's `provenance.json` still tells.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from mvfl.config.bases import Base
from mvfl.config.datasets import Dataset
from mvfl.config.evaluation import Scoring
from mvfl.config.experiment import Generation, TrainingRun, ViewSampling
from mvfl.config.gslrm import GslrmFinetuning
from mvfl.config.strict import Strict, part_of
from mvfl.config.workflow import WorkflowConfig
from mvfl.records.provenance import Provenance
from mvfl.runtime.files import InputError
from mvfl.runtime.fingerprint import changed_parts
from mvfl.stages.planning import Plan


class Stale(NamedTuple):
    """A folder of results and what of its settings differs.

    Attributes:
        folder: of the results.
        rule: that makes it.
        changed: names of the settings.
    """

    folder: Path
    rule: str
    changed: list[str]


def stale_results(config: WorkflowConfig) -> Iterator[Stale]:
    """All folders of finished results whose recorded settings are not the configuration's."""
    plan = Plan(config)
    for folder, rule, kinds, wanted in _expected(plan):
        record = folder / "provenance.json"
        if not record.is_file():
            continue
        try:
            settings = Provenance.read(record).settings
            recorded = {key: _typed(kind, _entry(settings, key, wanted[key])) for key, kind in kinds.items()}
        except (InputError, ValidationError):
            yield Stale(folder, rule, ["all (recorded by another version)"])
            continue
        old = {key: value.decisive() for key, value in recorded.items()}
        if changed := changed_parts(old, {key: wanted[key].decisive() for key in kinds}):
            yield Stale(folder, rule, [name.removeprefix("all.") for name in changed])


def _entry(settings: Any, key: str, wanted: Strict) -> Any:
    """Settings under a name, or the whole of them (`all`) without entries that are no settings of this type."""
    if key != "all":
        return settings.get(key) if isinstance(settings, dict) else None  # a missing one is refused as no settings at all
    known = type(wanted).model_fields
    return {k: v for k, v in settings.items() if k in known} if isinstance(settings, dict) else settings


def _typed(kind: Any, value: Any) -> Strict:
    typed: Strict = TypeAdapter(kind).validate_python(value)
    return typed


def _expected(plan: Plan) -> Iterator[tuple[Path, str, dict[str, Any], dict[str, Strict]]]:
    """Folder, rule, types and present settings of all results that the configuration can make."""
    layout, config = plan.layout, plan.config
    for name, data in config.datasets.items():
        yield layout.manifest(name).parent, "prepare_dataset", {"all": Dataset}, {"all": data}
    for name, base in config.bases.items():
        yield layout.base(name).parent, "prepare_base", {"all": Base}, {"all": base}
    for name, e in config.experiments.items():
        for step in plan.trained(name):
            run = part_of(e, TrainingRun)
            yield layout.checkpoint(name, step).folder, "train_mvdiffusion", {"all": TrainingRun}, {"all": run}
        verdict = layout.verdict(name, plan.verdict_step(name)).folder
        judged: dict[str, Strict] = {"scoring": part_of(config.evaluation, Scoring), "sampling": part_of(e, ViewSampling)}
        yield verdict, "score_checkpoint", {"scoring": Scoring, "sampling": ViewSampling}, judged
        yield layout.synthetic(name).parent, "generate_synthetic", {"all": Generation}, {"all": part_of(e, Generation)}
        yield layout.reconstruction(name).folder, "finetune_gslrm", {"all": GslrmFinetuning}, {"all": e.gslrm}
