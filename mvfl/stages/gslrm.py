"""Stage `gslrm`: fine-tune on generated or recorded views, score the validation split, write PLY and turntable."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from mvfl.config.agreement import gslrm_faults, refuse
from mvfl.config.gslrm import GslrmFinetuning
from mvfl.gslrm.batches import Batches
from mvfl.gslrm.checkpoint import load_gslrm, save_gslrm
from mvfl.gslrm.export import visible_gaussians, write_model
from mvfl.gslrm.scoring import evaluate_views, pictures_without_model, score_pictures
from mvfl.gslrm.training import GslrmTraining
from mvfl.gslrm.views import Views, load_views
from mvfl.layout import Reconstruction
from mvfl.metrics.pictures import save_grid
from mvfl.records.base import BaseRecord
from mvfl.records.manifest import Manifest
from mvfl.records.scores import ReconstructionScore, ReconstructionScores
from mvfl.runtime.devices import device
from mvfl.runtime.files import InputError, sha256, written_aside
from mvfl.runtime.fingerprint import Fingerprint, code_digest
from mvfl.runtime.lock import only_writer
from mvfl.runtime.progress import tracked
from mvfl.runtime.provenance import write_provenance
from mvfl.runtime.tracking import Run
from mvfl.runtime.weights import require_written
from mvfl.stages.jobs import GslrmJob
from mvfl.stages.synthetic import source_of


@dataclass(frozen=True)
class Sources:
    """Where inputs and targets come from.

    Attributes:
        real: recorded data.
        inputs: what the network sees: generated views, or the recorded ones.
        settings: of the fine-tuning.
    """

    real: Manifest
    inputs: Manifest
    settings: GslrmFinetuning

    def recorded(self, name: str) -> tuple[str, int | None]:
        """Recorded sample and reference view of an input sample; recorded inputs are their own and have no reference."""
        return (name, None) if self.settings.inputs == "real" else source_of(name)

    def batches(self) -> Batches:
        """Pictures of each training step."""
        targets = self.real if self.settings.real_targets else self.inputs
        pairs = {n: self.recorded(n)[0] if self.settings.real_targets else n for n in self.inputs.train}
        return Batches(self.settings, self.inputs, targets, pairs)

    def validation_views(self, name: str) -> tuple[Views, Views, bool]:
        """Input views and recorded targets of one validation sample, on the device.

        Targets are cameras beyond the rig where the data has them; else all of the rig's but the reference picture.

        Returns:
            Inputs, targets, and whether the targets' cameras are ones that no input has.
        """
        source, reference = self.recorded(name)
        recorded = load_views(self.real, source)
        extra = list(range(self.real.views, len(recorded.images)))
        chosen = extra or [v for v in range(self.real.views) if v != reference]
        return self.seen(name).to(device()), recorded.select(chosen).to(device()), bool(extra)

    def seen(self, name: str) -> Views:
        """The views that the network sees of a sample."""
        return load_views(self.inputs, name, all_views=False).select(slice(self.settings.input_views))


def run(job: GslrmJob, minutes: float | None = None) -> None:
    """Fine-tune on the training split, then reconstruct the validation split.

    Args:
        job: settings and paths.
        minutes: time budget; the run saves and raises `Unfinished` before it is spent.

    Raises:
        InputError: the base has no GS-LRM checkpoint, data sets do not belong together, or another job writes there.
    """
    with only_writer(job.state):
        _run(job, minutes)


def _run(job: GslrmJob, minutes: float | None) -> None:
    record, s, out = BaseRecord.read(job.base), job.gslrm, Reconstruction(job.out)
    if record.gslrm is None:
        raise InputError(f"{job.base} names no GS-LRM checkpoint; set bases.<name>.gslrm.")
    real = Manifest.read(job.real)
    if s.inputs == "synthetic" and job.synthetic is None:
        raise InputError("gslrm.inputs 'synthetic' needs the manifest of the generated views; run the `synthetic` target first.")
    sources = Sources(real, Manifest.read(job.synthetic) if s.inputs == "synthetic" and job.synthetic else real, s)
    refuse(gslrm_faults(s, real.name, sources.inputs.views))
    finetune(job, record.gslrm, sources, minutes)
    grid, rows = _score(sources, out.weights, record.gslrm)
    save_grid(out.renders, grid)
    metrics = ("foreground_psnr", "foreground_ssim", "mask_iou")
    ReconstructionScores(
        mean={m: float(np.mean([r.scores[m] for r in rows])) for m in metrics},
        baselines={k: {m: float(np.mean([r.others[k][m] for r in rows])) for m in metrics} for k in rows[0].others},
        samples=rows,
    ).write(out.metrics)
    model = load_gslrm(out.weights, real.image_size, s.clip_xyz).to(device())
    first = sources.inputs.val[0]
    gaussians = visible_gaussians(model, sources.seen(first), first)
    write_model(gaussians, s.turntable_views, real.image_size, s.renderer, job.out)
    inputs: dict[str, Path | str] = {"base": job.base, "real": job.real}
    inputs |= {"synthetic": job.synthetic} if job.synthetic else {}
    write_provenance(job.out, "gslrm", s.model_dump(mode="json"), inputs, real.rig.hash)


def finetune(job: GslrmJob, checkpoint: Path, sources: Sources, minutes: float | None = None) -> None:
    """Train from a checkpoint and write `gslrm.safetensors`."""
    batches, s, w = sources.batches(), job.gslrm, job.wandb
    training = GslrmTraining(s, checkpoint, batches, job.state, fingerprint(s, checkpoint, batches), minutes)
    training.restore()
    training.run(Run(job.run_name, "gslrm", s.model_dump(mode="json"), w.project, w.entity, w.mode))
    with written_aside(Reconstruction(job.out).weights) as temporary:
        save_gslrm(training.model, temporary, training.updates, training.step)
        require_written(temporary, {f"model.{k}": v for k, v in training.model.state_dict().items()})


def fingerprint(settings: GslrmFinetuning, checkpoint: Path, batches: Batches) -> Fingerprint:
    """What makes a training state usable."""
    inputs = {"checkpoint": sha256(checkpoint), "inputs": batches.inputs.data_hash, "targets": batches.targets.data_hash}
    return Fingerprint(settings.decisive(weights_only=True), inputs, code_digest("mvfl.gslrm.training"))


def _score(sources: Sources, weights: Path, base: Path) -> tuple[list[tuple[str, Tensor]], list[ReconstructionScore]]:
    """A grid of pictures, and the scores of every validation sample beside those of the base and of pictures without a model."""
    size, s, names = sources.real.image_size, sources.settings, sources.inputs.val
    model, before = (load_gslrm(path, size, s.clip_xyz).to(device()) for path in (weights, base))
    grid: list[tuple[str, Tensor]] = []
    rows = []
    for name in tracked(names, "score 3D models", len(names)):
        seen, wanted, held_out = sources.validation_views(name)
        rendered, scores = evaluate_views(model, seen, wanted, s.renderer)
        others: dict[str, Any] = {"base": evaluate_views(before, seen, wanted, s.renderer)[1]}
        others |= {k: score_pictures(p, wanted) for k, p in pictures_without_model(seen, wanted).items()}
        rows.append(ReconstructionScore(sample=name, held_out_cameras=held_out, scores=scores, others=others))
        if len(grid) < 6:
            grid += [(f"recorded {name[7:]}", wanted.images), (f"3D {name[7:]}", rendered.images)]
    return grid, rows
