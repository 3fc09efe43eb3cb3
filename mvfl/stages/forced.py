"""What `--forcerun`, `--force` and `--forceall` mean for stages that could go on from a state. Loads no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from mvfl.config.routing import segment_ends
from mvfl.runtime.endings import forget_notes
from mvfl.runtime.forcing import forget, set_aside
from mvfl.runtime.lock import holders_of, is_alive
from mvfl.runtime.progress import say
from mvfl.stages.planning import Plan


class Forced:
    """What a person forced.

    Args:
        plan: of the configuration.
        workflow: Snakemake's; what was typed is known to it once rules are read.
        gather: Snakemake's; expands patterns to the pieces that several jobs make.
    """

    def __init__(self, plan: Plan, workflow: Any, gather: Any) -> None:
        self.plan, self.workflow, layout = plan, workflow, plan.layout
        self.pieces: dict[str, Callable[[str], list[str]]] = {
            "synthetic": lambda name: gather.synthetic(str(layout.piece(name, "{scatteritem}"))),
            "reconstruct": lambda name: gather.reconstruct(str(layout.models_piece(name, "{scatteritem}"))),
        }

    def _typed(self) -> set[str]:
        """Rules, targets and files as typed."""
        settings = self.workflow.dag_settings
        return {*settings.forcerun, *(settings.targets if settings.forcetargets else ())}

    def collected(self, target: str, files: list[str]) -> list[str]:
        """The files of a stage's target; forcing the target's name forces them, not only the rule that collects them."""
        if target in self._typed():
            self.workflow.dag.forcefiles.update(self._meant(target, files))
        return files

    def _meant(self, target: str, files: list[str]) -> list[str]:
        """What forcing a target means: of a training all its segments, of generated views and models all pieces."""
        stage, _, name = target.partition("_")
        name = name or self.plan.config.experiment
        if stage == "train":
            return [f for s in self.plan.trained(name) for f in self.plan.layout.checkpoint(name, s).declared().values()]
        return self.pieces[stage](name) if stage in self.pieces else files

    def set_aside(self) -> None:
        """Set the half-done work of all forced stages aside, before any job begins; of experiments that are to run."""
        layout = self.plan.layout
        forget(layout.states())
        forget_notes(layout.results / "logs")
        if self.workflow.touch:
            return
        running = self.may_run()
        for state, beyond in self.states(running).items():
            if any(map(is_alive, holders_of(state))):
                say(f"{state} is being written by another job: it is not set aside.")
            else:
                set_aside(state, beyond)
        for name in running:
            pieces = {file for file in self._asked() if Path(file).parent == layout.models_piece(name, "").parent}
            if self.workflow.dag_settings.forceall or "reconstruct_samples" in self._typed() or pieces:
                for finished in layout.models(name).folder.glob("*/provenance.json"):
                    finished.unlink()  # a model without it counts as not done

    def may_run(self) -> list[str]:
        """Experiments that have jobs to run; of a whole run also those that its decisions may lead to: their jobs come later."""
        dag, config = self.workflow.dag, self.plan.config
        running = {getattr(job.wildcards, "experiment", None) for job in dag.needrun_jobs()}
        if running and any(job.rule.name == "all" for job in dag.jobs):
            running |= set(config.cases.values())
        return [name for name in config.experiments if name in running]

    def _asked(self) -> set[str]:
        """What was typed, and the files that forced targets mean."""
        typed, targets = self._typed(), self.plan.targets()
        return typed | {file for target in typed if target in targets for file in self._meant(target, targets[target])}

    def states(self, experiments: Iterable[str]) -> dict[Path, int]:
        """State folders of forced stages, each with the step up to which its training states still count."""
        found: dict[Path, int] = {}
        layout, asked, settings = self.plan.layout, self._asked(), self.workflow.dag_settings

        def forced(rule: str, files: Iterable[str]) -> bool:
            return bool(settings.forceall) or rule in asked or not asked.isdisjoint(files)

        for name in experiments:
            before = 0
            for step in segment_ends(self.plan.config, name):
                if forced("train_mvdiffusion", layout.checkpoint(name, step).declared().values()):
                    found[layout.state(name, "mvdiffusion")] = before
                    break
                before = step
            made = layout.piece(name, "").parent
            if forced("generate_synthetic", [f for f in asked if Path(f).parent == made]):
                found[layout.state(name, "synthetic")] = 0
            if forced("finetune_gslrm", layout.reconstruction(name).declared().values()):
                found[layout.state(name, "gslrm")] = 0
        return found
