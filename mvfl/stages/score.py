"""Stage `score`: sample views for validation samples, score them, write numbers and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mvfl.config.evaluation import Scoring
from mvfl.config.experiment import ViewSampling
from mvfl.layout import Checkpoint, Verdict
from mvfl.metrics.lpips import load_lpips
from mvfl.metrics.pictures import save_grid, save_loss_curve
from mvfl.mvdiffusion.sampling import Sampler
from mvfl.mvdiffusion.slots import slot_directions
from mvfl.records.checkpoint import step_of
from mvfl.records.manifest import Manifest, evenly
from mvfl.records.samples import short
from mvfl.records.scores import ViewScores
from mvfl.runtime.devices import device
from mvfl.runtime.provenance import write_provenance
from mvfl.runtime.tracking import read_log
from mvfl.stages.jobs import ScoreJob
from mvfl.verdict.baselines import baselines, likeness_to_training
from mvfl.verdict.measurements import measure
from mvfl.verdict.scores import Truth, load_truth
from mvfl.verdict.trend import loss_trend

Views = Float[Tensor, "pair slot 3 height width"]


def evaluation_pairs(manifest: Manifest, choice: ViewSampling, settings: Scoring) -> list[tuple[str, int]]:
    """(sample, reference view) pairs to score."""
    names = evenly(manifest.val, settings.samples)
    if choice.reference != "random":
        return [(n, choice.reference) for n in names]
    if settings.references == "first":
        return [(n, 0) for n in names]
    if settings.references == "in_turn":
        return [(n, i % manifest.views) for i, n in enumerate(names)]
    return [(n, r) for n in names for r in range(manifest.views)]


def run(job: ScoreJob) -> None:
    """Measure one checkpoint; writes `metrics.json`, `views.png`, `loss.png` and `provenance.json`.

    Raises:
        InputError: a file is missing or damaged, or the checkpoint was trained on another rig.
    """
    out, checkpoint, manifest = Verdict(job.out), Checkpoint(job.checkpoint), Manifest.read(job.manifest)
    sampler = Sampler.load(job.base, job.checkpoint, job.prompts, manifest.rig, job.sampling)
    pairs = evaluation_pairs(manifest, job.sampling, job.scoring)
    truth = load_truth(manifest, pairs, job.sampling.view_conditioning)
    number = {name: i for i, name in enumerate(manifest.val)}
    seeds = [(job.scoring.seed, number[n], r) for n, r in pairs]
    images = sampler.sample(truth.inputs, truth.cameras, truth.references, seeds)
    step = step_of(checkpoint)
    log = [row for row in read_log(checkpoint.log) if row["step"] <= step]
    trend = loss_trend(log)
    others = baselines(manifest, truth, job.sampling.view_conditioning)
    measurements, detail = measure(images, truth, others, trend.state)
    directions = slot_directions(manifest.rig, job.sampling.view_conditioning, truth.references)
    scores = ViewScores(
        experiment=job.experiment, step=step, pairs=len(pairs), measurements=measurements,
        loss_trend=trend, directions=directions, nearest_overlap=likeness_to_training(others["nearest"], truth),
        reached=log[-1]["time"] if log else None, lpips=_lpips(job.scoring, truth, {"model": images, **others}), **detail,
    )  # fmt: skip
    job.out.mkdir(parents=True, exist_ok=True)
    scores.write(out.metrics)
    _plot(out, truth, images, log, step, directions)
    inputs: dict[str, Path | str] = {
        "checkpoint": checkpoint.provenance, "manifest": job.manifest, "base": job.base, "prompts": job.prompts,
    }  # fmt: skip
    settings = {k: v.model_dump(mode="json") for k, v in {"scoring": job.scoring, "sampling": job.sampling}.items()}
    write_provenance(job.out, "score", settings, inputs, manifest.rig.hash)


def _lpips(settings: Scoring, truth: Truth, pictures: dict[str, Views]) -> dict[str, float] | None:
    """Mean LPIPS over the scored slots, where files for it were named."""
    if settings.lpips is None:
        return None
    lpips, place = load_lpips(settings.lpips.backbone, settings.lpips.heads).to(device()), device()
    distances = {
        name: torch.cat([lpips(p.to(place), t.to(place)).cpu() for p, t in zip(images, truth.images, strict=True)])
        for name, images in pictures.items()
    }
    shape = truth.scored.shape
    return {name: float(d.view(shape)[truth.scored].mean()) for name, d in distances.items()}


def _plot(out: Verdict, truth: Truth, images: Views, log: list[dict[str, Any]], step: int, directions: list[str] | None) -> None:
    """A few animals, recorded above sampled, and the training loss."""
    rows = []
    for i in range(0, len(images), max(1, len(images) // 4)):
        label = f"{short(truth.names[i])}, input: view {truth.references[i]}"
        rows += [(f"recorded {label}", truth.images[i]), (f"drawn {label}", images[i])]
    save_grid(out.views, rows[:8], directions or [f"slot {s}" for s in range(images.shape[1])])
    save_loss_curve(out.loss, log, [step])
