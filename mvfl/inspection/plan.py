"""`mvfl plan`: what every experiment costs, and the tree of decisions with the GPU hours of each way, before anything has run."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.table import Table
from rich.tree import Tree

from mvfl.config.bases import HubBase, LocalBase
from mvfl.config.experiment import Training
from mvfl.config.routing import drawing_step, segment_ends
from mvfl.config.strict import CASES, Case
from mvfl.config.workflow import WorkflowConfig
from mvfl.layout import Layout
from mvfl.runtime.tracking import read_log
from mvfl.stages.pairs import WORTH_COMPILING
from mvfl.stages.planning import Plan

PUBLISHED_UNET, PUBLISHED_GSLRM = 870_184_644, 303_565_824  # parameters
SMALL_UNET, SMALL_GSLRM = 5_460_000, 2_288_064  # of the embedded base
VIEWS, MEASURED_STEPS = 6, 6  # of the measured speeds


@dataclass(frozen=True)
class Speeds:
    """What one card does at 512 px with the published sizes (docs/performance.md).

    Attributes:
        card: where it was measured.
        training, training_compiled: objects per second, cached latents, four objects of six views a pass.
        compiling: seconds that compiling takes at the start of a segment.
        sampling, sampling_compiled: seconds per object, 6 guided steps, four objects of six views at once.
        gslrm: objects per second with rendering.
        checkpointing: share of the speed that is left with gradient checkpointing.
    """

    card: str = "one H100"
    training: float = 12.9
    training_compiled: float = 16.9
    compiling: float = 130.0
    sampling: float = 0.34
    sampling_compiled: float = 0.23
    gslrm: float = 1.51
    checkpointing: float = 0.75


SPEEDS = Speeds()  # where no earlier run tells its own


@dataclass(frozen=True)
class Cost:
    """GPU hours, and gigabytes that stay on disk."""

    hours: float = 0.0
    gigabytes: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.hours + other.hours, self.gigabytes + other.gigabytes)


@dataclass(frozen=True)
class ExperimentPlan:
    """What one experiment costs.

    Attributes:
        name: of the experiment.
        verdict: training up to the verdict, and the verdict.
        onward: from a verdict A to the 3D model.
        measured: whether step times of an earlier run were used.
    """

    name: str
    verdict: Cost
    onward: Cost
    measured: bool


def seconds_per_step(results: Path, experiment: str) -> float | None:
    """Median seconds per optimiser step of an earlier run, from its log."""
    path = Layout(results).state(experiment, "mvdiffusion") / "log.jsonl"
    if not path.is_file():
        return None
    rows = [r for r in read_log(path) if r.get("train/loss") is not None]
    steps = [
        (b["time"] - a["time"]) / (b["step"] - a["step"])
        for a, b in itertools.pairwise(rows)
        if b["step"] > a["step"] and b["time"] > a["time"]
    ]
    return sorted(steps)[len(steps) // 2] if steps else None


def plan_experiment(config: WorkflowConfig, name: str) -> ExperimentPlan:
    """GPU hours and disk of one experiment.

    Args:
        config: validated.
        name: of the experiment.
    """
    plan, e = Plan(config), config.experiments[name]
    published = isinstance(config.bases[e.base], HubBase | LocalBase)
    unet, gslrm = (PUBLISHED_UNET, PUBLISHED_GSLRM) if published else (SMALL_UNET, SMALL_GSLRM)
    area, t = (config.datasets[e.dataset].image_size / 512) ** 2, e.training
    share = area * unet / PUBLISHED_UNET
    measured = seconds_per_step(config.results, name)
    step = measured if measured is not None else t.batch_size * t.gradient_accumulation / _training_speed(t) * share
    last, drawn = plan.verdict_step(name), drawing_step(config, name)
    segments = [s for s in segment_ends(config, name) if s <= drawn]
    compiling = 0 if t.compile is False or measured is not None else SPEEDS.compiling
    # Weights, their average and two moments a state; the exported weights of each segment.
    kept = Cost(0, 4 * unet * (4 * t.keep_states + len(segments)) / 1e9)
    references = VIEWS if config.evaluation.references == "all" and e.reference == "random" else 1
    drawing = SPEEDS.sampling * e.sampling.steps / MEASURED_STEPS * share
    judging = config.evaluation.samples * references * drawing
    verdict = Cost((last * step + compiling * len([s for s in segments if s <= last]) + judging) / 3600) + kept
    onward = Cost((drawn - last) * step / 3600)
    if e.gslrm.generated:
        objects = (e.synthetic.train + e.synthetic.val + e.synthetic.test) * (VIEWS if e.synthetic.references == "all" else 1)
        compiled = e.sampling.compile is True or (e.sampling.compile == "auto" and objects >= WORTH_COMPILING)
        seconds = objects * drawing * (SPEEDS.sampling_compiled / SPEEDS.sampling if compiled else 1)
        onward += Cost((seconds + SPEEDS.compiling * compiled) / 3600, objects * VIEWS * 3 * area * 512**2 * 0.3 / 1e9)
    speed = SPEEDS.gslrm * (SPEEDS.checkpointing if e.gslrm.gradient_checkpointing else 1)
    seconds = e.gslrm.steps * e.gslrm.batch_size / speed * area * gslrm / PUBLISHED_GSLRM
    return ExperimentPlan(name, verdict, onward + Cost(seconds / 3600, 4 * gslrm * 7 / 1e9), measured is not None)


def _training_speed(t: Training) -> float:
    """Objects per second with these settings; `auto` compiles on CUDA."""
    speed = SPEEDS.training if t.compile is False else SPEEDS.training_compiled
    return speed * (SPEEDS.checkpointing if t.gradient_checkpointing else 1)


def experiments_table(config: WorkflowConfig) -> Table:
    """Every experiment of the configuration with what it costs."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("experiment", "GPU hours", "on to 3D", "disk (GB)", "times from"):
        table.add_column(column, no_wrap=True)
    for name in config.experiments:
        p = plan_experiment(config, name)
        disk = (p.verdict + p.onward).gigabytes
        source = "an earlier run" if p.measured else SPEEDS.card
        table.add_row(name, f"{p.verdict.hours:.2f}", f"{p.onward.hours:.2f}", f"{disk:.1f}", source)
    return table


def decision_tree(config: WorkflowConfig) -> Tree:
    """All ways that verdicts can lead, each with the GPU hours up to its end; no experiment is tried twice."""
    costs = {name: plan_experiment(config, name) for name in config.experiments}
    root = Tree(_judged(costs[config.experiment], 0.0))
    _grow(root, config, costs, [config.experiment], costs[config.experiment].verdict.hours)
    return root


def _judged(experiment: ExperimentPlan, before: float, case: Case | None = None) -> str:
    way = f"{case} -> " if case else ""
    return f"{way}[bold]{experiment.name}[/bold]: verdict after {before + experiment.verdict.hours:.2f} GPU hours in all"


def _grow(node: Tree, config: WorkflowConfig, costs: dict[str, ExperimentPlan], visited: list[str], spent: float) -> None:
    """Add what each case of the last visited experiment leads to."""
    node.add(f"A -> 3D model after {spent + costs[visited[-1]].onward.hours:.2f}")
    successors: dict[Case, str] = {case: name for case, name in config.cases.items()}
    others = [(case, successors.get(case)) for case in CASES[1:]]
    for case, name in others:
        if name is not None and name not in visited:
            branch = node.add(_judged(costs[name], spent, case))
            _grow(branch, config, costs, [*visited, name], spent + costs[name].verdict.hours)
    if ends := [case for case, name in others if name is None or name in visited]:
        node.add(f"{', '.join(ends)} -> the end: nothing is left to try")
