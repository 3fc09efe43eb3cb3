"""Stage `gslrm`: fine-tune on generated or recorded views, score the validation split, write PLY and turntable."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from mvfl.config.agreement import gslrm_faults, refuse
from mvfl.config.gslrm import GslrmFinetuning
from mvfl.gslrm.batches import Batches, Supervised
from mvfl.gslrm.body import extent
from mvfl.gslrm.checkpoint import load_gslrm, save_gslrm
from mvfl.gslrm.export import visible_gaussians, write_model
from mvfl.gslrm.lora import merged
from mvfl.gslrm.model import Gslrm
from mvfl.gslrm.scoring import evaluate_views, pictures_without_model, score_pictures
from mvfl.gslrm.training import GslrmTraining
from mvfl.gslrm.unseen import Fold, chosen_inputs, unseen_fold
from mvfl.gslrm.views import Views, load_views
from mvfl.layout import Reconstruction
from mvfl.metrics.lpips import Lpips, load_lpips
from mvfl.metrics.pictures import save_grid
from mvfl.records.base import BaseRecord
from mvfl.records.manifest import Manifest, evenly
from mvfl.records.samples import short
from mvfl.records.scores import Block, ReconstructionScore, ReconstructionScores, mean_of
from mvfl.runtime.devices import device, processes
from mvfl.runtime.files import InputError, sha256, written_aside
from mvfl.runtime.fingerprint import Fingerprint, code_digest
from mvfl.runtime.forcing import announce
from mvfl.runtime.launch import is_first_process
from mvfl.runtime.lock import only_writer
from mvfl.runtime.progress import say, tracked
from mvfl.runtime.provenance import write_provenance
from mvfl.runtime.tracking import Run
from mvfl.runtime.weights import require_written
from mvfl.stages.jobs import GslrmJob
from mvfl.stages.pairs import source_of
from mvfl.stages.viewer_page import write_viewer

WORSE_PSNR, WORSE_IOU = 0.05, 0.005  # dB and overlap: less is no loss


@dataclass(frozen=True)
class Sources:
    """Where inputs and targets come from.

    Attributes:
        real: recorded data.
        inputs: what the network sees when it is judged: generated views, or the recorded ones.
        settings: of the fine-tuning.
        others: recordings that the training learns from besides.
    """

    real: Manifest
    inputs: Manifest
    settings: GslrmFinetuning
    others: tuple[Manifest, ...] = ()

    def recorded(self, name: str) -> tuple[str, int | None]:
        """Recorded sample and reference view of an input sample; recorded inputs are their own and have no reference."""
        return source_of(name) if self.settings.generated else (name, None)

    def photographed(self, name: str) -> Float[Tensor, "view 3 height width"]:
        """The recorded pictures among a sample's inputs: the one that its other views were drawn of, or all."""
        reference, images = self.recorded(name)[1], load_views(self.inputs, name, all_views=False).images
        return images if reference is None else images[reference : reference + 1]

    def parts(self) -> list[Supervised]:
        """What the training learns from: the inputs that are judged first."""
        targets = self.real if self.settings.real_targets else self.inputs
        pairs = {n: self.recorded(n)[0] if self.settings.real_targets else n for n in self.inputs.train}
        recorded = [self.real, *self.others] if self.settings.inputs == "mixed" else list(self.others)
        references = {n: r for n in self.inputs.train if (r := self.recorded(n)[1]) is not None}
        return [Supervised(self.inputs, targets, pairs, references), *(Supervised(r, r, {n: n for n in r.train}) for r in recorded)]

    def batches(self) -> Batches:
        """Pictures of each training step, this process's share of them."""
        mine = processes()
        return Batches(self.settings, self.parts(), (mine.process_index, mine.num_processes))

    def fold(self, name: str, number: int) -> Fold:
        """Inputs and judging cameras of one validation sample."""
        source, reference = self.recorded(name)
        recorded = len(self.real.sample(source).files)
        return unseen_fold(self.inputs.views, recorded, self.settings.input_views, number, reference)

    def validation_views(self, name: str, number: int) -> tuple[Views, Views, Fold]:
        """Input views and recorded targets of one validation sample, on the device; no camera is among both."""
        fold = self.fold(name, number)
        recorded = load_views(self.real, self.recorded(name)[0])
        seen = load_views(self.inputs, name, all_views=False)
        return seen.select(fold.inputs).to(device()), recorded.select(fold.targets).to(device()), fold

    def seen(self, name: str) -> Views:
        """The views that the network sees of a sample when nothing is to be judged."""
        views = load_views(self.inputs, name, all_views=False)
        return views.select(chosen_inputs(len(views.images), self.settings.input_views, self.recorded(name)[1]))


def run(job: GslrmJob, minutes: float | None = None) -> None:
    """Fine-tune on the training split, then reconstruct the validation split.

    Args:
        job: settings and paths.
        minutes: time budget; the run saves and raises `Unfinished` before it is spent.

    Raises:
        InputError: the base has no GS-LRM checkpoint, data sets do not belong together, or another job writes there.
    """
    with only_writer(job.state) if is_first_process() else contextlib.nullcontext():
        announce(job.state)
        _run(job, minutes)


def checkpoint_of(base: Path) -> Path:
    """The GS-LRM weights of a base.json.

    Raises:
        InputError: it has none.
    """
    record = BaseRecord.read(base)
    if record.gslrm is None:
        raise InputError(f"{base} names no GS-LRM checkpoint; set bases.<name>.gslrm.")
    return record.gslrm


def sources_of(job: GslrmJob) -> Sources:
    """The data of a job.

    Raises:
        InputError: generated views are missing.
    """
    real, s = Manifest.read(job.real), job.gslrm
    if s.generated and job.synthetic is None:
        raise InputError(f"gslrm.inputs '{s.inputs}' needs the manifest of the generated views; run the `synthetic` target first.")
    others = tuple(Manifest.read(path) for path in job.others)
    return Sources(real, Manifest.read(job.synthetic) if s.generated and job.synthetic else real, s, others)


def _run(job: GslrmJob, minutes: float | None) -> None:
    checkpoint, sources, s, out = checkpoint_of(job.base), sources_of(job), job.gslrm, Reconstruction(job.out)
    real = sources.real
    for data in (sources.inputs, *sources.others):
        refuse(gslrm_faults(s, data.name, data.views))
    if not finetune(job, checkpoint, sources, minutes):
        return
    lpips = load_lpips(job.lpips.backbone, job.lpips.heads).to(device()) if job.lpips else None
    rivals = {"model": out.weights, "base": checkpoint}
    grid, scores = score_models(sources, rivals, lpips)
    # Which weights are used is a choice: the block that is reported on has no say in it.
    if not beats_base(score_models(sources, rivals, block="val")[1] if sources.inputs.test else scores):
        say(f"The fine-tuned weights do not beat the base on {scores.judges}: the base's are used.")
        # Pages, cards and comparisons call "this model" what is used, and show its pictures.
        grid, scores = score_models(sources, {"model": checkpoint, "finetuned": out.weights}, lpips)
        scores = scores.model_copy(update={"used": "base"})
        with written_aside(out.weights) as temporary:
            save_gslrm(load_gslrm(checkpoint, real.image_size, s.clip_xyz), temporary, 0, 0)
    save_grid(out.renders, grid)
    model = load_gslrm(out.weights, real.image_size, s.clip_xyz, s.fit_steps).to(device())
    first = sources.inputs.judging[0]
    gaussians = visible_gaussians(model, sources.seen(first), first)
    size = [length * (real.millimetres or 1.0) for length in extent(gaussians)]
    scores.model_copy(update={"size": size, "unit": "mm" if real.millimetres else "world units"}).write(out.metrics)
    write_model(gaussians, s.turntable_views, real.image_size, s.renderer, job.out)
    save_grid(out.given, [("input", sources.photographed(first))])
    write_viewer(out.viewer, gaussians, f"3D model of {sources.recorded(first)[0]}")
    inputs: dict[str, Path | str] = {"base": job.base, "real": job.real}
    inputs |= {"synthetic": job.synthetic} if job.synthetic else {}
    inputs |= {f"others_{i}": path for i, path in enumerate(job.others)}
    write_provenance(job.out, "gslrm", s.model_dump(mode="json"), inputs, real.rig.hash)


def finetune(job: GslrmJob, checkpoint: Path, sources: Sources, minutes: float | None = None) -> bool:
    """Train from a checkpoint and write `gslrm.safetensors`; of several processes the first writes, and is told True."""
    batches, s, w = sources.batches(), job.gslrm, job.wandb
    look = _Look(sources, job.state / "validation") if sources.inputs.val else None
    training = GslrmTraining(s, checkpoint, batches, job.state, fingerprint(s, checkpoint, batches), minutes, look)
    training.restore()
    training.run(Run(job.run_name, "gslrm", s.model_dump(mode="json"), w.project, w.entity, w.mode))
    if not training.main:
        return False
    with written_aside(Reconstruction(job.out).weights) as temporary:
        if (file := training.watch.best_weights()) and training.watch.best:
            shutil.copyfile(file, temporary)
            say(f"The weights of step {training.watch.best.step} are used: the best look.")
        else:
            whole = merged(training.model)
            save_gslrm(whole, temporary, training.updates, training.step)
            require_written(temporary, {f"model.{k}": v for k, v in whole.state_dict().items()})
    return True


class _Look:
    """Renders and scores a few validation samples from cameras that no input has.

    Args:
        sources: of inputs and targets.
        folder: gets a picture per look.
    """

    def __init__(self, sources: Sources, folder: Path) -> None:
        self.sources, self.folder = sources, folder
        self.names = evenly(sources.inputs.val, sources.settings.validation_samples)

    def __call__(self, model: Gslrm, step: int) -> tuple[Path, dict[str, float]]:
        """A grid of recorded and rendered pictures, and the mean scores."""
        rows, grid = [], []
        for number, name in enumerate(self.names):
            seen, wanted, _ = self.sources.validation_views(name, number)
            rendered, scores = evaluate_views(model, seen, wanted, self.sources.settings.renderer)
            rows.append(scores)
            grid += [(f"recorded {short(name)}", wanted.images), (f"3D {short(name)}", rendered.images)]
        path = self.folder / f"step-{step:06d}.png"
        save_grid(path, grid)
        return path, {f"val/{k}": v for k, v in mean_of(rows).items()}


def fingerprint(settings: GslrmFinetuning, checkpoint: Path, batches: Batches) -> Fingerprint:
    """What makes a training state usable."""
    inputs = {"checkpoint": sha256(checkpoint)}
    for number, part in enumerate(batches.parts):
        mark = f"_{number}" if number else ""
        inputs |= {f"inputs{mark}": part.inputs.data_hash, f"targets{mark}": part.targets.data_hash}
    deciding = settings.decisive(weights_only=True) | {"cycle": settings.cycle}
    return Fingerprint(deciding, inputs, code_digest("mvfl.gslrm.training"))


def beats_base(scores: ReconstructionScores) -> bool:
    """Whether fine-tuning was worth it: better in PSNR without a worse overlap, or in overlap without a worse PSNR."""
    mine, base = scores.mean, scores.baselines["base"]
    psnr, iou = mine["foreground_psnr"] - base["foreground_psnr"], mine["mask_iou"] - base["mask_iou"]
    return (psnr > 0 and iou > -WORSE_IOU) or (iou > 0 and psnr > -WORSE_PSNR)


def score_models(
    sources: Sources, weights: dict[str, Path], lpips: Lpips | None = None, block: Block | None = None
) -> tuple[list[tuple[str, Tensor]], ReconstructionScores]:
    """A grid of pictures, and the scores of every judged sample beside those of pictures without a model.

    Args:
        sources: of inputs and targets.
        weights: GS-LRM checkpoints by name; the first one is judged, the others stand beside it.
        lpips: where its files are named.
        block: of the samples; default: the one that is reported on.
    """
    size, s, inputs = sources.real.image_size, sources.settings, sources.inputs
    block = block or ("test" if inputs.test else "val")
    names = inputs.test if block == "test" else inputs.val
    models = {name: load_gslrm(path, size, s.clip_xyz, s.fit_steps).to(device()) for name, path in weights.items()}
    grid: list[tuple[str, Tensor]] = []
    rows = []
    for number, name in enumerate(tracked(names, "score 3D models", len(names))):
        seen, wanted, fold = sources.validation_views(name, number)
        results = {key: evaluate_views(model, seen, wanted, s.renderer, lpips) for key, model in models.items()}
        (rendered, scores), *_ = results.values()
        others = {key: result[1] for key, result in list(results.items())[1:]}
        others |= {k: score_pictures(p, wanted, lpips) for k, p in pictures_without_model(seen, wanted).items()}
        rows.append(ReconstructionScore(sample=name, targets=fold.targets, scores=scores, others=others))
        if len(grid) < 6:
            grid += [(f"recorded {short(name)}", wanted.images), (f"3D {short(name)}", rendered.images)]
    kinds = [k for k in rows[0].others if all(k in r.others for r in rows)]
    baselines = {k: mean_of([r.others[k] for r in rows]) for k in kinds}
    return grid, ReconstructionScores(mean=mean_of([r.scores for r in rows]), baselines=baselines, samples=rows, block=block)
