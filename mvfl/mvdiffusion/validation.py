"""Pictures and scores during training: the same few samples at every validation, from the EMA weights."""

from __future__ import annotations

from pathlib import Path

from mvfl.config.schema import Sampling, TrainingRun
from mvfl.data.samples import evenly, read_manifest
from mvfl.evaluation.pictures import save_grid
from mvfl.evaluation.scoring import copy_score, draw_views, load_truth, score_views, slot_assignment
from mvfl.mvdiffusion.pipeline import MultiViewPipeline
from mvfl.mvdiffusion.training import load_prompts


class Validation:
    """Draws a grid and scores it; called by the training loop.

    Args:
        manifest: data set.
        experiment: settings; one fixed reference per sample, so that successive values can be compared.
        prompts: `clr_embeds.pt`.
        folder: gets `step-<step>.png`.
    """

    def __init__(self, manifest: Path, experiment: TrainingRun, prompts: Path, folder: Path) -> None:
        self.experiment, self.prompts, self.folder = experiment, prompts, folder
        self.manifest = read_manifest(manifest)
        names = evenly(self.manifest.val, experiment.training.validation_samples)
        views = self.manifest.views
        pairs = [(n, i % views if experiment.reference == "random" else experiment.reference) for i, n in enumerate(names)]
        self.truth = load_truth(self.manifest, pairs, experiment.view_conditioning)

    def __call__(self, pipeline: MultiViewPipeline, step: int) -> tuple[Path, dict[str, float]]:
        """Draw, score and save a grid.

        Args:
            pipeline: with the weights to judge.
            step: optimiser step, for names.
        """
        e, truth = self.experiment, self.truth
        t = e.training
        sampling = Sampling(steps=t.validation_denoising_steps, guidance=t.validation_guidance, eta=0)
        seeds = [(e.training.seed, 0x7A1, i) for i in range(len(truth.names))]
        images = draw_views(
            pipeline, truth.inputs, truth.references, seeds, self.manifest, e.view_conditioning,
            load_prompts(self.prompts, pipeline.unet), sampling, f"validation at step {step}",
        )  # fmt: skip
        rows = []
        for i, name in enumerate(truth.names):
            rows += [(f"recorded {name[-4:]}", truth.images[i]), (f"drawn {name[-4:]}", images[i])]
        path = self.folder / f"step-{step:06d}.png"
        save_grid(path, rows)
        scores = {f"val/{k}": float(v[truth.scored].mean()) for k, v in score_views(images, truth).items()}
        scores["val/slot_accuracy"] = float(slot_assignment(images, truth)[truth.scored].float().mean())
        scores["val/copy_score"] = float(copy_score(images, truth)[truth.scored].mean())
        for slot in range(images.shape[1]):
            mask = truth.scored[:, slot]
            if mask.any():
                scores[f"val/psnr_slot_{slot}"] = float(score_views(images, truth)["psnr"][:, slot][mask].mean())
        return path, scores
