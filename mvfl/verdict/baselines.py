"""Pictures that need no model, to stand beside every score."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float16
from torch import Tensor

from mvfl.config.strict import ViewConditioning
from mvfl.data.pictures import composite, read_ahead, view_pictures
from mvfl.metrics.image import mask_iou
from mvfl.mvdiffusion.slots import slot_views
from mvfl.records.manifest import Manifest
from mvfl.runtime.progress import tracked
from mvfl.verdict.scores import Truth

SEARCH_SIZE = 32  # pixels per side for the nearest-sample search
PART = 8192  # pictures that are compared at once


def baselines(
    manifest: Manifest, truth: Truth, conditioning: ViewConditioning
) -> dict[str, Float[Tensor, "pair slot 3 height width"]]:
    """Pictures that need no model: blank, copy of the input, mean training view, nearest training sample.

    The nearest sample is found by the reference picture among all training samples and views; its own views, read from
    the matched view on, are the prediction.
    """
    sums = torch.zeros_like(truth.images[0])
    library = torch.empty(len(manifest.train), manifest.views, 3 * SEARCH_SIZE**2, dtype=torch.float16)  # [sample, view, pixels]
    for number, rgba in enumerate(tracked(read_ahead(manifest, manifest.train), "baselines", len(manifest.train))):
        rgb = composite(rgba, 1.0)
        sums += rgb
        library[number] = F.interpolate(rgb, (SEARCH_SIZE, SEARCH_SIZE), mode="area").flatten(1)
    mean_views = sums / len(manifest.train)
    queries = F.interpolate(truth.inputs, (SEARCH_SIZE, SEARCH_SIZE), mode="area").flatten(1)
    if conditioning in ("prompt", "absolute_prompt"):
        # The slots mean fixed cameras: only the same view of another sample can stand in.
        nearest = [(_nearest(q[None], library[:, r])[0], r) for q, r in zip(queries, truth.references, strict=True)]
    else:
        nearest = [divmod(i, manifest.views) for i in _nearest(queries, library.flatten(0, 1))]
    matched = []
    for sample, view in nearest:
        rgb = composite(view_pictures(manifest, manifest.train[sample]), 1.0)
        matched.append(rgb[slot_views(manifest.rig, view, conditioning)])
    return {
        "blank": torch.ones(1).expand_as(truth.images),
        "copy": truth.inputs[:, None].expand_as(truth.images),
        "mean": torch.stack([mean_views[v] for v in truth.views]),
        "nearest": torch.stack(matched),
    }


def _nearest(queries: Float[Tensor, "query pixel"], library: Float16[Tensor, "picture pixel"]) -> list[int]:
    """Index of the most similar picture for each query; a long recording's are looked at in parts."""
    distances = [torch.cdist(queries, part.float()) for part in library.split(PART)]
    return torch.cat(distances, 1).argmin(1).tolist()


def likeness_to_training(nearest: Float[Tensor, "pair slot 3 height width"], truth: Truth) -> float:
    """Overlap (IoU) of the judged inputs' outlines with those of their most similar training pictures: the median.

    Args:
        nearest: views of the nearest training samples, as `baselines` found them.
        truth: recorded pictures.
    """
    slots = list(enumerate(truth.reference_slots))
    known, judged = (torch.stack([pictures[i, s] for i, s in slots]) for pictures in (nearest, truth.images))
    return float(mask_iou(known, judged).median())
