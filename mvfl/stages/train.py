"""Stage `train`: multi-view diffusion training from cached latents up to one step, and the export of its EMA weights."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from mvfl.config.agreement import refuse, view_faults
from mvfl.config.experiment import Sampling
from mvfl.data.latents import LatentCache
from mvfl.geometry.rig import Rig
from mvfl.layout import Checkpoint
from mvfl.metrics.pictures import save_grid
from mvfl.mvdiffusion.batches import Recorded, TrainingData
from mvfl.mvdiffusion.pipeline import MultiViewPipeline
from mvfl.mvdiffusion.sampling import Sampler
from mvfl.mvdiffusion.slots import WORDS, slot_orders
from mvfl.mvdiffusion.training import MultiViewTraining, Validate, ema_weights
from mvfl.mvdiffusion.unet import load_unet, widen_conv_in, with_view_conditioning, with_views
from mvfl.records.base import BaseRecord
from mvfl.records.checkpoint import step_of
from mvfl.records.latents import LatentIndex
from mvfl.records.manifest import Manifest, evenly
from mvfl.records.prompts import read_prompts
from mvfl.records.samples import short
from mvfl.runtime.files import sha256, written_aside
from mvfl.runtime.fingerprint import Fingerprint, code_digest
from mvfl.runtime.forcing import announce
from mvfl.runtime.launch import is_first_process
from mvfl.runtime.lock import only_writer
from mvfl.runtime.provenance import write_provenance
from mvfl.runtime.tracking import Run
from mvfl.runtime.weights import require_written
from mvfl.stages.jobs import TrainJob
from mvfl.verdict.scores import copy_score, load_truth, score_views, share, slot_assignment


def run(job: TrainJob, minutes: float | None = None) -> None:
    """Train from the newest saved state to `job.until_step` and export the EMA weights.

    Args:
        job: settings and paths.
        minutes: time budget; the run saves and raises `Unfinished` before it is spent.

    Raises:
        InputError: inputs that do not belong together, or another job writes there.
        Unfinished: stopped in good order by a signal or the time budget.
        FloatingPointError: the loss or a gradient is not finite.
    """
    with only_writer(job.state) if is_first_process() else contextlib.nullcontext():
        announce(job.state)
        train(job, minutes, Validation(job))


def train(job: TrainJob, minutes: float | None = None, validate: Validate | None = None) -> None:
    """The stage without its lock, with a validation of the caller's choice."""
    base = BaseRecord.read(job.base)
    parts = [_part(folder, job, base) for folder in job.latents]
    pipeline = MultiViewPipeline.from_pretrained(base.pipeline)
    pipeline.unet = with_view_conditioning(widen_conv_in(pipeline.unet), job.run.view_conditioning)
    pipeline.text_encoder = None  # prompts are encoded already; nothing stays in memory twice
    data = TrainingData(parts, read_prompts(job.prompts, WORDS, pipeline.unet.config.cross_attention_dim))
    training = MultiViewTraining(job.run, pipeline, data, job.state, fingerprint(job, base), job.until_step, minutes)
    if job.start is not None:
        start = Checkpoint(job.start)
        training.restore(step_of(start), lambda: load_unet(start.unet).state_dict())
    else:
        training.restore()
    config = {"experiment": job.run.model_dump(mode="json"), "until_step": job.until_step}
    w = job.wandb
    training.run(Run(job.run.wandb_run, "mvdiffusion", config, w.project, w.entity, w.mode), validate)
    if training.main:
        _export(training, job, parts[0].rig)
    training.accelerator.wait_for_everyone()


def _part(folder: Path, job: TrainJob, base: BaseRecord) -> Recorded:
    """One latent cache, and whether this training can learn from it."""
    file = folder / "index.json"
    index = LatentIndex.read(file)
    index.require_base(base.hash, folder)
    rig = index.cameras(file)
    refuse(view_faults(job.run, f"rig {rig.name}", len(rig.cameras), rig.is_symmetric))
    return Recorded(LatentCache.open(folder, "train"), rig, slot_orders(rig, job.run.view_conditioning))


def _indices(job: TrainJob) -> dict[str, Path]:
    """Index of each latent cache, by name; the first one's is `latents`."""
    return {f"latents_{i}" if i else "latents": folder / "index.json" for i, folder in enumerate(job.latents)}


def fingerprint(job: TrainJob, base: BaseRecord) -> Fingerprint:
    """What makes a training state usable. Prompts are left out: they change at the boundaries of a curriculum."""
    inputs = {name: sha256(file) for name, file in _indices(job).items()} | {"base": base.hash}
    return Fingerprint(job.run.decisive(weights_only=True), inputs, code_digest("mvfl.mvdiffusion.training"))


def _export(training: MultiViewTraining, job: TrainJob, rig: Rig) -> None:
    """Write the EMA weights: the one artefact that evaluation and generation both use."""
    with ema_weights(training.unet, training.ema) as unet, written_aside(job.out) as folder:
        written = Checkpoint(folder)
        with_views(unet, len(rig.cameras))
        unet.save_pretrained(written.unet)
        shutil.copyfile(job.state / "log.jsonl", written.log)
        inputs: dict[str, Path | str] = {"prompts": job.prompts, "base": job.base, **_indices(job)}
        settings = {"step": job.until_step, **job.run.model_dump(mode="json")}
        write_provenance(folder, "train", settings, inputs, rig.hash)
        require_written(written.weights, unet.state_dict())


class Validation:
    """Pictures and scores during training: the same few samples at every validation, from the EMA weights.

    Args:
        job: of the training; one fixed reference per sample, so that successive values can be compared.
    """

    def __init__(self, job: TrainJob) -> None:
        self.job, self.t = job, job.run.training
        self.manifest = Manifest.read(job.manifest)
        names = evenly(self.manifest.val, self.t.validation_samples)
        views, reference = self.manifest.views, job.run.reference
        pairs = [(n, i % views if reference == "random" else reference) for i, n in enumerate(names)]
        self.truth = load_truth(self.manifest, pairs, job.run.view_conditioning)

    def __call__(self, pipeline: MultiViewPipeline, step: int) -> tuple[Path, dict[str, float]]:
        """Sample, score and save a grid.

        Args:
            pipeline: with the weights to judge.
            step: optimiser step, for names.
        """
        truth = self.truth
        sampling = Sampling(
            solver="dpm++", steps=self.t.validation_denoising_steps, guidance=self.t.validation_guidance,
            batch_size=max(1, (512 // self.manifest.image_size) ** 2),  # as much memory as one object of 512 px takes
        )  # fmt: skip
        prompts = read_prompts(self.job.prompts, WORDS, pipeline.unet.config.cross_attention_dim)
        sampler = Sampler(pipeline, prompts, self.manifest.rig, self.job.run.view_conditioning, sampling)
        seeds = [(self.t.seed, 0x7A1, i) for i in range(len(truth.names))]
        pipeline.vae.enable_slicing()  # weights, average and optimiser lie on the card, too: pictures are decoded one by one
        images = sampler.sample(truth.inputs, truth.cameras, truth.references, seeds, f"validation at step {step}")
        pipeline.vae.disable_slicing()
        rows = []
        for i, name in enumerate(truth.names):
            rows += [(f"recorded {short(name)}", truth.images[i]), (f"sampled {short(name)}", images[i])]
        path = self.job.state / "validation" / f"step-{step:06d}.png"
        save_grid(path, rows)
        metrics = score_views(images, truth)
        scores = {f"val/{k}": float(v[truth.scored].mean()) for k, v in metrics.items()}
        scores["val/slot_accuracy"] = share(slot_assignment(images, truth), truth.scored)
        scores["val/copy_score"] = float(copy_score(images, truth)[truth.scored].mean())
        for slot in range(images.shape[1]):
            mask = truth.scored[:, slot]
            if mask.any():
                scores[f"val/psnr_slot_{slot}"] = float(metrics["psnr"][:, slot][mask].mean())
        return path, scores
