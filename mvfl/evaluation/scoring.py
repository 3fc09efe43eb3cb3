"""Draw six views for validation samples, and score them per slot beside baselines that need no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from mvfl.config.schema import Sampling, ViewConditioning
from mvfl.data.samples import Manifest, composite
from mvfl.evaluation.metrics import foreground_psnr, foreground_ssim, mask_iou
from mvfl.geometry.rig import Rig
from mvfl.mvdiffusion.conditioning import pose_features, slot_views
from mvfl.mvdiffusion.pipeline import MultiViewPipeline
from mvfl.runtime.devices import half_precision
from mvfl.runtime.progress import tracked
from mvfl.runtime.randomness import generator

SEARCH_SIZE = 32  # pixels per side for the nearest-sample search
METRICS = ("psnr", "ssim", "iou")


@dataclass(frozen=True)
class Truth:
    """Recorded pictures of (sample, reference) pairs in slot order.

    Attributes:
        names: sample per pair.
        references: reference view per pair.
        images: RGB over white [pair, slot, 3, height, width].
        alphas: masks [pair, slot, 1, height, width].
        inputs: the reference picture [pair, 3, height, width].
        views: view index per pair and slot.
        rig: cameras of the views.
    """

    names: list[str]
    references: list[int]
    images: Float[Tensor, "pair slot 3 height width"]
    alphas: Float[Tensor, "pair slot 1 height width"]
    inputs: Float[Tensor, "pair 3 height width"]
    views: list[list[int]]
    rig: Rig

    @property
    def reference_slots(self) -> list[int]:
        """Slot that shows the input, per pair; it is never scored."""
        return [v.index(r) for v, r in zip(self.views, self.references, strict=True)]

    @property
    def scored(self) -> Bool[Tensor, "pair slot"]:
        """All slots but the reference's."""
        mask = torch.ones(len(self.names), len(self.views[0]), dtype=torch.bool)
        mask[range(len(self.names)), self.reference_slots] = False
        return mask


def load_truth(manifest: Manifest, pairs: Sequence[tuple[str, int]], conditioning: ViewConditioning) -> Truth:
    """Read the pictures of (sample, reference) pairs."""
    images, alphas, inputs, views = [], [], [], []
    cache: dict[str, Tensor] = {}
    for name, reference in pairs:
        if name not in cache:
            cache[name] = manifest.pictures(manifest.sample(name))
        rgba = cache[name]
        rgb = composite(rgba, 1.0)
        order = slot_views(manifest.rig, reference, conditioning)
        images.append(rgb[order])
        alphas.append(rgba[order, 3:])
        inputs.append(rgb[reference])
        views.append(order)
    return Truth(
        [p[0] for p in pairs],
        [p[1] for p in pairs],
        torch.stack(images),
        torch.stack(alphas),
        torch.stack(inputs),
        views,
        manifest.rig,
    )


def draw_views(
    pipeline: MultiViewPipeline,
    inputs: Float[Tensor, "pair 3 height width"],
    references: Sequence[int],
    seeds: Sequence[tuple[int, ...]],
    manifest: Manifest,
    conditioning: ViewConditioning,
    prompts: Float[Tensor, "view token channel"],
    sampling: Sampling,
    title: str = "views",
) -> Float[Tensor, "pair slot 3 height width"]:
    """Draw all slots for each input picture; each pair's result depends on its own seed only.

    Args:
        pipeline: on the device to use.
        inputs: reference pictures over white.
        references: their view indices.
        seeds: integers per pair.
        manifest: names the rig.
        conditioning: how slots are told their camera.
        prompts: one embedding per slot.
        sampling: steps, guidance, eta, batch size.
        title: of the progress bar.
    """
    views = manifest.views
    pipeline.set_progress_bar_config(disable=True)
    out = []
    starts = range(0, len(inputs), sampling.batch_size)
    for start in tracked(starts, title, len(starts)):
        chunk = slice(start, start + sampling.batch_size)
        poses = None
        if conditioning == "relative_pose":
            poses = torch.cat([pose_features(manifest.rig, r) for r in references[chunk]])
        # Draws come from CPU generators: the same noise on every device, whatever the batch.
        with half_precision(pipeline.device):
            drawn = pipeline(
                inputs[chunk].repeat_interleave(views, 0), prompts, poses,
                num_inference_steps=sampling.steps, guidance_scale=sampling.guidance, eta=sampling.eta,
                generator=[generator("cpu", *s) for s in seeds[chunk]],
            ).images  # fmt: skip
        out.append(drawn.float().cpu().unflatten(0, (-1, views)))
    return torch.cat(out)


def score_views(images: Float[Tensor, "pair slot 3 height width"], truth: Truth) -> dict[str, Float[Tensor, "pair slot"]]:
    """Foreground PSNR (dB), foreground SSIM and mask IoU per pair and slot."""
    pairs = list(zip(images, truth.images, truth.alphas, strict=True))  # one at a time, for the memory
    return {
        "psnr": torch.stack([foreground_psnr(*pair) for pair in pairs]),
        "ssim": torch.stack([foreground_ssim(*pair) for pair in pairs]),
        "iou": torch.stack([mask_iou(drawn, true) for drawn, true, _ in pairs]),
    }


def slot_assignment(images: Float[Tensor, "pair slot 3 height width"], truth: Truth) -> Bool[Tensor, "pair slot"]:
    """Whether each prediction is nearer (mean squared error) to its own slot's picture than to any other's."""
    nearest = [torch.cdist(a.flatten(1), b.flatten(1)).argmin(1) for a, b in zip(images, truth.images, strict=True)]
    return torch.stack(nearest) == torch.arange(images.shape[1])


def copy_score(images: Float[Tensor, "pair slot 3 height width"], truth: Truth) -> Float[Tensor, "pair slot"]:
    """Likeness of each prediction to the input beyond what the truth itself has; 0 for perfect views.

    Likeness is the foreground SSIM against the input picture.
    """
    out = []
    for i, slot in enumerate(truth.reference_slots):
        seen, mask = truth.inputs[i].expand_as(images[i]), truth.alphas[i, slot].expand_as(truth.alphas[i])
        out.append(foreground_ssim(images[i], seen, mask) - foreground_ssim(truth.images[i], seen, mask))
    return torch.stack(out)


def baselines(
    manifest: Manifest, truth: Truth, conditioning: ViewConditioning
) -> dict[str, Float[Tensor, "pair slot 3 height width"]]:
    """Pictures that need no model: blank, copy of the input, mean training view, nearest training sample.

    The nearest sample is found by the reference picture among all training samples and views; its own views, read from
    the matched view on, are the prediction.
    """
    small, sums = [], torch.zeros_like(truth.images[0])
    for rgba in tracked(manifest.read_ahead(manifest.train), "baselines", len(manifest.train)):
        rgb = composite(rgba, 1.0)
        sums += rgb
        small.append(F.interpolate(rgb, (SEARCH_SIZE, SEARCH_SIZE), mode="area").flatten(1))
    mean_views = sums / len(manifest.train)
    library = torch.stack(small)  # [sample, view, pixels]
    queries = F.interpolate(truth.inputs, (SEARCH_SIZE, SEARCH_SIZE), mode="area").flatten(1)
    if conditioning in ("prompt", "absolute_prompt"):
        # The slots mean fixed cameras: only the same view of another sample can stand in.
        nearest = [(int(torch.cdist(q[None], library[:, r]).argmin()), r) for q, r in zip(queries, truth.references, strict=True)]
    else:
        flat = torch.cdist(queries, library.flatten(0, 1)).argmin(1).tolist()
        nearest = [divmod(i, library.shape[1]) for i in flat]
    matched = []
    for sample, view in nearest:
        rgb = composite(manifest.pictures(manifest.sample(manifest.train[sample])), 1.0)
        matched.append(rgb[slot_views(manifest.rig, view, conditioning)])
    return {
        "blank": torch.ones(1).expand_as(truth.images),
        "copy": truth.inputs[:, None].expand_as(truth.images),
        "mean": torch.stack([mean_views[v] for v in truth.views]),
        "nearest": torch.stack(matched),
    }
