"""Stage `gslrm` as a whole: fine-tune, score held-out views, write PLY and turntable."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mvfl.base.record import read_record
from mvfl.config.schema import GslrmFinetuning, Wandb
from mvfl.data.samples import Manifest, read_manifest
from mvfl.evaluation.pictures import save_grid, to_pil
from mvfl.geometry.cameras import turntable
from mvfl.geometry.tensors import camera_tensors
from mvfl.gslrm.checkpoint import load_gslrm
from mvfl.gslrm.gaussians import Gaussians, filter_indices
from mvfl.gslrm.model import Gslrm
from mvfl.gslrm.ply import save_ply
from mvfl.gslrm.rendering import Renderer, render
from mvfl.gslrm.training import (
    Views,
    evaluate_views,
    finetune_gslrm,
    load_views,
    pictures_without_model,
    reconstruct,
    score_pictures,
)
from mvfl.runtime.devices import device
from mvfl.runtime.files import InputError, write_json, written_aside
from mvfl.runtime.progress import tracked
from mvfl.runtime.provenance import write_provenance
from mvfl.synthetic import source_of

# The published filters at inference.
MIN_OPACITY, MAX_SCALE, FLOATER = 0.04, 0.1, 0.6
BOX = (-0.91, 0.91, -0.91, 0.91, -1.0, 1.0)


@dataclass(frozen=True)
class GslrmPaths:
    """Inputs and outputs.

    Attributes:
        base: `base.json`, names the starting checkpoint.
        real: manifest of the recorded data.
        synthetic: manifest of the generated views.
        state: training state and log.
        out: output folder.
    """

    base: Path
    real: Path
    synthetic: Path
    state: Path
    out: Path


def run_gslrm(settings: GslrmFinetuning, wandb: Wandb, run_name: str, paths: GslrmPaths, minutes: float | None) -> None:
    """Fine-tune on the synthetic training split, then reconstruct the validation split from single pictures.

    Raises:
        InputError: the base has no GS-LRM checkpoint, or rigs differ.
    """
    record = read_record(paths.base)
    if record.gslrm is None:
        raise InputError(f"{paths.base} names no GS-LRM checkpoint; set bases.<name>.gslrm.")
    real, synthetic = read_manifest(paths.real), read_manifest(paths.synthetic)
    target = real if settings.real_targets else synthetic
    pairs = {n: source_of(n)[0] if settings.real_targets else n for n in synthetic.train}
    weights = paths.out / "gslrm.safetensors"
    finetune_gslrm(settings, record.gslrm, synthetic, target, pairs, wandb, run_name, paths.state, weights, minutes)
    model = load_gslrm(weights, real.image_size, settings.clip_xyz).to(device())
    before = load_gslrm(record.gslrm, real.image_size, settings.clip_xyz).to(device())
    grid: list[tuple[str, Tensor]] = []
    rows: list[dict[str, Any]] = []
    for name in tracked(synthetic.val, "score 3D models", len(synthetic.val)):
        seen, wanted, held_out = validation_views(real, synthetic, name, settings.input_views)
        drawn, scores = evaluate_views(model, seen, wanted, settings.renderer)
        _, base_scores = evaluate_views(before, seen, wanted, settings.renderer)
        others = {k: score_pictures(p, wanted) for k, p in pictures_without_model(seen, wanted).items()}
        rows.append({"sample": name, "held_out_cameras": held_out, **scores, "others": {"base": base_scores, **others}})
        if len(grid) < 6:
            grid += [(f"recorded {name[7:]}", wanted.images), (f"3D {name[7:]}", drawn.images)]
    save_grid(paths.out / "renders.png", grid)
    metrics = ("foreground_psnr", "foreground_ssim", "mask_iou")
    mean: dict[str, Any] = {m: float(np.mean([r[m] for r in rows])) for m in metrics}
    baselines = {k: {m: float(np.mean([r["others"][k][m] for r in rows])) for m in metrics} for k in rows[0]["others"]}
    write_json(paths.out / "metrics.json", {"mean": mean, "baselines": baselines, "samples": rows})
    first = load_views(synthetic, synthetic.val[0], all_views=False).select(slice(settings.input_views))
    gaussians = visible_gaussians(model, first, synthetic.val[0])
    write_model(gaussians, settings.turntable_views, real.image_size, settings.renderer, paths.out)
    inputs: dict[str, Path | str] = {"base": paths.base, "real": paths.real, "synthetic": paths.synthetic}
    write_provenance(paths.out, "gslrm", settings.model_dump(mode="json"), inputs, real.rig.hash)


def validation_views(real: Manifest, synthetic: Manifest, name: str, input_views: int) -> tuple[Views, Views, bool]:
    """Generated input views and recorded targets of one validation sample, on the device.

    Targets are cameras beyond the rig where the data has them; else all of the rig's but the reference picture.

    Returns:
        Inputs, targets, and whether the targets' cameras are ones that no input has.
    """
    source, reference = source_of(name)
    recorded = load_views(real, source)
    seen = load_views(synthetic, name, all_views=False).select(list(range(input_views)))
    extra = list(range(real.views, len(recorded.images)))
    chosen = extra or [v for v in range(real.views) if v != reference]
    return seen.to(device()), recorded.select(chosen).to(device()), bool(extra)


@torch.no_grad()
def visible_gaussians(model: Gslrm, inputs: Views, what: str) -> Gaussians:
    """Gaussians of one object after the published inference filters.

    Args:
        model: on the device to use.
        inputs: the views that the network sees.
        what: named in the error.

    Raises:
        InputError: the filters leave nothing.
    """
    gaussians = reconstruct(model, Views.stacked([inputs.to(device())])).gaussians[0]
    kept = filter_indices(gaussians, MIN_OPACITY, MAX_SCALE, FLOATER, BOX)
    if len(kept) == 0:
        raise InputError(f"GS-LRM drew nothing visible for {what}; its training failed, look at the loss and the renders.")
    return gaussians[kept]


def write_model(gaussians: Gaussians, turntable_views: int, size: int, renderer: Renderer, out: Path) -> None:
    """Write `gaussians.ply` and the turntable of one object."""
    with written_aside(out / "gaussians.ply") as temporary:
        save_ply(gaussians, temporary)
    save_turntable(gaussians, turntable_views, size, renderer, out)


def save_turntable(gaussians: Gaussians, views: int, size: int, renderer: Renderer, out: Path) -> None:
    """Write `turntable.gif` and a strip `turntable.png` of the object seen from all around at elevation 20."""
    c2w, intrinsics = camera_tensors(turntable(views, 20.0, size))
    place = gaussians.xyz.device
    with torch.no_grad():
        images = render(gaussians, c2w.to(place), intrinsics.to(place), size, size, renderer=renderer).images.clamp(0, 1)
    columns = min(6, views)
    save_grid(out / "turntable.png", [("3D model", row) for row in images[: columns * (views // columns)].split(columns)])
    frames = [to_pil(i, max(256, size)) for i in images]
    with written_aside(out / "turntable.gif") as temporary:
        frames[0].save(temporary, "GIF", save_all=True, append_images=frames[1:], duration=120, loop=0)
