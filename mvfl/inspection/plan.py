"""`mvfl plan`: what each case would run, GPU hours and disk, before anything has run."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from mvfl.config.bases import HubBase, LocalBase
from mvfl.config.routing import drawing_step
from mvfl.config.strict import Case
from mvfl.config.workflow import WorkflowConfig
from mvfl.layout import Layout
from mvfl.runtime.tracking import read_log
from mvfl.stages.jobs import GslrmJob, ScoreJob, SyntheticJob, TrainJob
from mvfl.stages.planning import Plan


@dataclass(frozen=True)
class Speeds:
    """What one card does at 512 px with the published sizes (docs/performance.md).

    Attributes:
        card: where it was measured.
        training: objects per second, cached latents, four objects of six views a pass.
        sampling: seconds per object, 8 guided steps, four objects of six views at once.
        gslrm: objects per second with rendering.
    """

    card: str = "one H100"
    training: float = 16.9
    sampling: float = 0.49
    gslrm: float = 1.5


@dataclass(frozen=True)
class Sizes:
    """Parameters of a base's networks."""

    unet: int
    gslrm: int


PUBLISHED, SMALL = Sizes(870_184_644, 303_565_824), Sizes(5_460_000, 2_288_064)
VIEWS, MEASURED_STEPS = 6, 8  # of the measured speeds


@dataclass
class CasePlan:
    """What one case costs.

    Attributes:
        case: A, B, C or D.
        experiments: trained, in order.
        jobs: rule -> number of jobs.
        gpu_hours: estimate.
        gigabytes: estimate of what stays on disk.
        measured: whether step times of an earlier run were used.
    """

    case: Case
    experiments: list[str]
    jobs: dict[str, int] = field(default_factory=dict)
    gpu_hours: float = 0.0
    gigabytes: float = 0.0
    measured: bool = False


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


def plan_case(config: WorkflowConfig, case: Case, speeds: Speeds = Speeds()) -> CasePlan:
    """Jobs, GPU hours and disk of one case; B, C and D include the first experiment up to its verdict.

    Args:
        config: validated.
        case: with an experiment of its own, or A.
        speeds: of the card, where no earlier run tells its own.
    """
    plan = Plan(config)
    jobs = plan.case_jobs(case)
    out = CasePlan(case, plan.case_experiments(case), {rule: len(found) for rule, found in jobs.items()})
    seconds = 0.0
    for name in out.experiments:
        sizes, share = _scale(plan, name)
        t = plan.experiment(name).training
        measured = seconds_per_step(config.results, name)
        out.measured |= measured is not None
        step = measured if measured is not None else t.batch_size * t.gradient_accumulation / speeds.training * share
        seconds += (drawing_step(config, name) if name == out.experiments[-1] else plan.verdict_step(name)) * step
        segments = sum(cast(TrainJob, j).out.is_relative_to(plan.layout.experiment(name)) for j in jobs["train_mvdiffusion"])
        out.gigabytes += 4 * sizes.unet * (4 * t.keep_states + segments) / 1e9
    for job in jobs["score_checkpoint"]:
        e = cast(ScoreJob, job)
        references = VIEWS if e.scoring.references == "all" and e.sampling.reference == "random" else 1
        _, share = _scale(plan, e.experiment)
        seconds += e.scoring.samples * references * speeds.sampling * e.sampling.sampling.steps / MEASURED_STEPS * share
    last = out.experiments[-1]
    sizes, share = _scale(plan, last)
    size = config.datasets[plan.experiment(last).dataset].image_size
    for job in jobs.get("generate_synthetic", []):
        g = cast(SyntheticJob, job).source.generation
        sampled = (g.synthetic.train + g.synthetic.val) * (VIEWS if g.synthetic.references == "all" else 1)
        seconds += sampled * speeds.sampling * g.sampling.steps / MEASURED_STEPS * share
        out.gigabytes += sampled * VIEWS * 3 * size * size * 0.3 / 1e9
    for job in jobs["finetune_gslrm"]:
        f = cast(GslrmJob, job).gslrm
        seconds += f.steps * f.batch_size / speeds.gslrm * (size / 512) ** 2 * (sizes.gslrm / PUBLISHED.gslrm)
        out.gigabytes += 4 * sizes.gslrm * 7 / 1e9
    out.gpu_hours = seconds / 3600
    return out


def _scale(plan: Plan, name: str) -> tuple[Sizes, float]:
    """Sizes of an experiment's networks, and the work of its UNet relative to the published one at 512 px."""
    e, config = plan.experiment(name), plan.config
    sizes = PUBLISHED if isinstance(config.bases[e.base], HubBase | LocalBase) else SMALL
    return sizes, (config.datasets[e.dataset].image_size / 512) ** 2 * (sizes.unet / PUBLISHED.unet)
