"""What a rule asks of a plan by its wildcards: its job, the files that it reads, and what of it Snakemake compares."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from snakemake.io import ancient

from mvfl.config.strict import Case
from mvfl.records.provenance import still_the_same
from mvfl.stages.jobs import Job
from mvfl.stages.planning import Plan

# Stage -> its job, of a plan and the rule's wildcards; all rules use the same ones.
JOBS: dict[str, Callable[[Plan, Any], Job]] = {
    "data": lambda plan, w: plan.data(w.dataset),
    "fetch": lambda plan, w: plan.fetch(w.base),
    "base": lambda plan, w: plan.base(w.base),
    "prompts": lambda plan, w: plan.prompts(w.base, w.style),
    "latents": lambda plan, w: plan.latents(w.latents),
    "train": lambda plan, w: plan.train(w.experiment, int(w.step)),
    "score": lambda plan, w: plan.score(w.experiment, int(w.step)),
    "decide": lambda plan, w: plan.decide(w.experiment, int(w.step)),
    "generation": lambda plan, w: plan.generation(w.experiment),
    "synthetic": lambda plan, w: plan.synthetic(w.experiment, w.scatteritem),
    "gslrm": lambda plan, w: plan.gslrm(w.experiment),
    "zero_shot": lambda plan, w: plan.zero_shot(w.dataset, w.base),
    "models": lambda plan, w: plan.models(w.experiment, w.scatteritem),
    "compare": lambda plan, w: plan.compare(w.group),
    "export": lambda plan, w: plan.export(w.experiment),
}
# Stage -> where it noted the prompts that it read: their content decides, not their date. All that they are made of (the base, the
# style) is an input or a parameter of these stages, too, so that a change of it is never overlooked.
NOTED: dict[str, Callable[[Plan, Any], Path]] = {
    "train": lambda plan, w: plan.layout.checkpoint(w.experiment, w.step).provenance,
    "score": lambda plan, w: plan.layout.verdict(w.experiment, w.step).provenance,
    "generation": lambda plan, w: plan.layout.synthetic(w.experiment).with_name("provenance.json"),
    "synthetic": lambda plan, w: plan.layout.synthetic(w.experiment).with_name("provenance.json"),
}


class Asked:
    """Functions of wildcards for the rules.

    Args:
        plan: of the configuration.
        case_of: case of an experiment; raises inside Snakemake where it is not decided yet.
    """

    def __init__(self, plan: Plan, case_of: Callable[[str], Case]) -> None:
        self.plan, self.case_of = plan, case_of

    def _job(self, stage: str, w: Any) -> Job:
        return self.plan.report(w.experiment, self.case_of(w.experiment)) if stage == "report" else JOBS[stage](self.plan, w)

    def inputs(self, stage: str) -> Callable[[Any], dict[str, list[Any]]]:
        """Files that a stage reads; for `unpack`."""

        def named(w: Any) -> dict[str, list[Any]]:
            files = self._job(stage, w).inputs()
            same = stage in NOTED and still_the_same(NOTED[stage](self.plan, w), "prompts")
            return {k: [ancient(str(f)) if same and k == "prompts" else str(f) for f in v] for k, v in files.items()}

        return named

    def job(self, stage: str) -> Callable[[Any, Any], str]:
        """The whole job as JSON. A function of `input` too, which Snakemake does not compare with earlier runs."""
        return lambda wildcards, input: self._job(stage, wildcards).model_dump_json()

    def decisive(self, stage: str) -> Callable[[Any], str]:
        """What of a job changes results; this is what Snakemake compares."""
        return lambda wildcards: json.dumps(self._job(stage, wildcards).decisive(), sort_keys=True)
