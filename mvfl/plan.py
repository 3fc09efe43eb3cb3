"""`mvfl plan`: what each case would run, GPU hours and disk, before anything has run."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path

from mvfl.config.schema import Case, EmbeddedBase, HubBase, LocalBase, ScratchBase
from mvfl.config.workflow import WorkflowConfig
from mvfl.routing import evaluation_step, segment_ends
from mvfl.runtime.tracking import read_log

# Measured on one H200 at 512 px, six views (docs/performance.md): training from cached latents, four objects a pass
# (objects/s); guided sampling of 50 steps, four at once (s per object); GS-LRM with rendering (objects/s).
TRAINING, SAMPLING, GSLRM = 15.0, 2.23, 1.27
# Parameters of UNet and GS-LRM: published and embedded.
PUBLISHED, EMBEDDED = (870_184_644, 303_565_824), (5_460_000, 2_288_064)


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
    path = results / "state" / experiment / "mvdiffusion" / "log.jsonl"
    if not path.is_file():
        return None
    rows = [r for r in read_log(path) if "train/loss" in r]
    steps = [
        (b["time"] - a["time"]) / (b["step"] - a["step"])
        for a, b in itertools.pairwise(rows)
        if b["step"] > a["step"] and b["time"] > a["time"]
    ]
    return sorted(steps)[len(steps) // 2] if steps else None


def plan_case(config: WorkflowConfig, case: Case) -> CasePlan:
    """Jobs, GPU hours and disk of one case; B, C and D include the first experiment up to its verdict."""
    names = [config.experiment]
    if case != "A" and case in config.cases and config.cases[case] != config.experiment:
        names.append(config.cases[case])
    plan = CasePlan(case, names)
    add = lambda rule, count=1: plan.jobs.__setitem__(rule, plan.jobs.get(rule, 0) + count)  # noqa: E731
    experiments = [config.experiments[n] for n in names]
    add("prepare_dataset", len({e.dataset for e in experiments}))
    add("prepare_base", len({e.base for e in experiments}))
    caches = {(e.dataset, e.base, e.augmentation.model_dump_json(), e.training.seed) for e in experiments}
    add("cache_latents", len(caches))
    styles = set()
    for name, e in zip(names, experiments, strict=True):
        last = evaluation_step(config, name)
        segments = [s for s in segment_ends(config, name) if s <= last]
        styles |= {(e.base, e.prompt_style_at(s)) for s in segments}
        add("train_mvdiffusion", len(segments))
        add("evaluate_checkpoint")
        unet, gslrm = _parameters(config, e.base)
        size = config.datasets[e.dataset].image_size
        share = (size / 512) ** 2 * (unet / PUBLISHED[0])
        t = e.training
        measured = seconds_per_step(config.results, name)
        plan.measured |= measured is not None
        step = measured if measured is not None else t.batch_size * t.gradient_accumulation / TRAINING * share
        references = 6 if config.evaluation.references == "all" and e.reference == "random" else 1
        per_object = SAMPLING * e.sampling.steps / 50 * share
        seconds = last * step + config.evaluation.samples * references * per_object
        plan.gigabytes += 4 * unet * (4 * t.keep_states + len(segments)) / 1e9
        if name == names[-1]:
            s = e.synthetic
            drawn = (s.train + s.val) * (6 if s.references == "all" else 1)
            seconds += drawn * per_object
            seconds += e.gslrm.steps * e.gslrm.batch_size / GSLRM * (size / 512) ** 2 * (gslrm / PUBLISHED[1])
            plan.gigabytes += 4 * gslrm * 7 / 1e9 + drawn * 6 * 3 * size * size * 0.3 / 1e9
        plan.gpu_hours += seconds / 3600
    add("embed_prompts", len(styles))
    add("generate_synthetic")
    add("join_synthetic")
    add("finetune_gslrm")
    add("render_report")
    return plan


def _parameters(config: WorkflowConfig, base: str) -> tuple[int, int]:
    kind = config.bases[base]
    if isinstance(kind, HubBase | LocalBase):
        return PUBLISHED
    if isinstance(kind, EmbeddedBase | ScratchBase):
        return EMBEDDED
    raise TypeError(f"unknown kind of base: {kind}")
