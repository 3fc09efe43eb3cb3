"""Stage `gslrm`: fine-tune GS-LRM on six views per sample and write the 3D result."""

from __future__ import annotations

import functools
import math
import random
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from mvfl import __version__
from mvfl.config.schema import GslrmFinetuning, Wandb
from mvfl.data.samples import Manifest, composite
from mvfl.evaluation.metrics import foreground_psnr, foreground_ssim, mask_iou, predicted_mask
from mvfl.geometry.tensors import camera_tensors
from mvfl.gslrm.checkpoint import load_gslrm, save_gslrm
from mvfl.gslrm.losses import gslrm_loss, load_vgg, losses_at
from mvfl.gslrm.model import Gslrm, GslrmOutput, freeze, pixel_rays
from mvfl.gslrm.rendering import Renderer, Rendering, render_objects
from mvfl.gslrm.view_choice import choose_views, paste_over
from mvfl.runtime.devices import Pace
from mvfl.runtime.devices import device as pick_device
from mvfl.runtime.files import InputError, digest, sha256, written_aside
from mvfl.runtime.progress import Bar, say
from mvfl.runtime.randomness import batch_indices, derived_seed
from mvfl.runtime.tracking import Tracker
from mvfl.runtime.training_state import StopRequest, TrainingState, Unfinished

AHEAD = 3  # batches read while a step runs


@dataclass(frozen=True)
class Views:
    """Posed pictures of one object, or of several stacked.

    Attributes:
        images: RGB over white in 0..1 [..., view, 3, height, width].
        alphas: masks [..., view, 1, height, width].
        c2w: camera-to-world [..., view, 4, 4].
        intrinsics: fx, fy, cx, cy in pixels [..., view, 4].
    """

    images: Float[Tensor, "*batch v 3 height width"]
    alphas: Float[Tensor, "*batch v 1 height width"]
    c2w: Float[Tensor, "*batch v 4 4"]
    intrinsics: Float[Tensor, "*batch v 4"]

    def select(self, views: list[int] | slice) -> Views:
        """Some of the views of one object."""
        return Views(*(t[views] for t in vars(self).values()))

    def to(self, device: torch.device) -> Views:
        """The same on a device; a copy from pinned memory overlaps with computation."""
        return Views(*(t.to(device, non_blocking=True) for t in vars(self).values()))

    def pinned(self) -> Views:
        """The same in page-locked memory."""
        return Views(*(t.pin_memory() for t in vars(self).values()))

    @staticmethod
    def stacked(objects: Sequence[Views]) -> Views:
        """Several objects with equally many views as one batch."""
        return Views(*(torch.stack(field) for field in zip(*(vars(o).values() for o in objects), strict=True)))


def load_views(manifest: Manifest, name: str, all_views: bool = True, eight_bit: bool = False) -> Views:
    """Read a sample over white; generated pictures without alpha get their mask from the distance to white.

    Args:
        manifest: real or synthetic data set.
        name: sample.
        all_views: also the views beyond the rig's.
        eight_bit: composite in 8 bit, as the published loader does.
    """
    sample = manifest.sample(name)
    count = len(sample.files) if all_views else manifest.views
    rgba = manifest.pictures(sample, list(range(count)), keep_background=True)
    images, alphas = composite(rgba, 1.0), rgba[:, 3:]
    if eight_bit:
        pasted = [paste_over(Image.open(f).convert("RGBA"), manifest.image_size, 255, False) for f in sample.files[:count]]
        images = torch.stack(pasted)
    if bool((alphas == 1).all()):
        alphas = predicted_mask(images).float()
    cameras = [c.resized(manifest.image_size, manifest.image_size) for c in sample.cameras[:count]]
    c2w, intrinsics = camera_tensors(cameras)
    return Views(images, alphas, c2w, intrinsics)


def reconstruct(model: Gslrm, inputs: Views) -> GslrmOutput:
    """Run the network on a batch of objects."""
    return model(inputs.images, inputs.c2w, inputs.intrinsics)


def render_views(output: GslrmOutput, targets: Views, renderer: Renderer) -> Rendering:
    """Render every object of a batch from its target cameras."""
    height, width = targets.images.shape[-2:]
    return render_objects(output.gaussians, targets.c2w, targets.intrinsics, height, width, renderer)


@torch.no_grad()
def evaluate_views(model: Gslrm, inputs: Views, targets: Views, renderer: Renderer) -> tuple[Rendering, dict[str, float]]:
    """Reconstruct one object and score its renderings from the target cameras (foreground PSNR dB, SSIM, IoU)."""
    drawn = render_views(reconstruct(model, Views.stacked([inputs])), Views.stacked([targets]), renderer)
    images = drawn.images[0].clamp(0, 1)
    return Rendering(images, drawn.alphas[0]), score_pictures(images, targets)


def score_pictures(images: Float[Tensor, "view 3 height width"], targets: Views) -> dict[str, float]:
    """Foreground PSNR (dB), foreground SSIM and mask IoU, mean over views."""
    return {
        "foreground_psnr": float(foreground_psnr(images, targets.images, targets.alphas).mean()),
        "foreground_ssim": float(foreground_ssim(images, targets.images, targets.alphas).mean()),
        "mask_iou": float(mask_iou(images, targets.images).mean()),
    }


def pictures_without_model(inputs: Views, targets: Views) -> dict[str, Float[Tensor, "view 3 height width"]]:
    """Baselines: a blank picture, the input of the camera nearest to each target's, and the mean of all inputs."""
    directions = [torch.nn.functional.normalize(v.c2w[:, :3, 3], dim=-1) for v in (targets, inputs)]
    nearest = (directions[0] @ directions[1].T).argmax(1)
    return {
        "blank": torch.ones_like(targets.images),
        "copy": inputs.images[nearest],
        "mean": inputs.images.mean(0, keepdim=True).expand_as(targets.images),
    }


def learning_rate(step: int, settings: GslrmFinetuning) -> float:
    """Linear warm-up, then a cosine to zero."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    progress = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def optimizer_for(model: Gslrm, settings: GslrmFinetuning) -> torch.optim.AdamW:
    """AdamW (0.9, 0.95); weight decay only on tensors with two or more dimensions."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.95), fused=True)


def finetune_gslrm(
    settings: GslrmFinetuning,
    checkpoint: Path,
    inputs: Manifest,
    targets: Manifest,
    pairs: dict[str, str],
    wandb: Wandb,
    run_name: str,
    state_folder: Path,
    out: Path,
    minutes: float | None = None,
) -> None:
    """Train from a checkpoint and write `gslrm.safetensors`.

    Args:
        settings: what to do.
        checkpoint: starting weights in the published layout.
        inputs: data set whose first `input_views` views the network sees (synthetic or real).
        targets: data set that supervises.
        pairs: input sample name -> target sample name, for the training split.
        wandb, run_name: tracking.
        state_folder: training state and log.
        out: file to write.
        minutes: time budget.

    Raises:
        InputError: the two data sets have different rigs, or an option does not fit the model.
        Unfinished: stopped in good order.
        FloatingPointError: the loss became NaN.
    """
    if inputs.rig.hash != targets.rig.hash:
        raise InputError(
            f"Rig of {inputs.name} ({inputs.rig.hash}) and of {targets.name} ({targets.rig.hash}) differ: pictures and "
            "cameras would not match. Generate the synthetic views again from a model trained on this rig."
        )
    if settings.view_choice != "first" and inputs.data_hash != targets.data_hash:
        raise InputError(
            f"gslrm.view_choice '{settings.view_choice}' draws inputs and targets from the same sample; generated views have "
            "their own inputs, so use 'first' with them."
        )
    if settings.input_views > inputs.views:
        raise InputError(f"gslrm.input_views is {settings.input_views}, but {inputs.name} has {inputs.views} views; lower it.")
    device = pick_device()
    model = load_gslrm(checkpoint, inputs.image_size, settings.clip_xyz).to(device)
    f = settings.freeze
    share = freeze(model, f.transformer_until, f.patch_embedder, f.positional_embeddings)
    say(f"GS-LRM: {share:.1%} of the parameters are trained.")
    model.gradient_checkpointing = settings.gradient_checkpointing
    vgg = load_vgg(settings.losses.vgg_path).to(device) if settings.losses.vgg_path else None
    optimizer = optimizer_for(model, settings)
    names = sorted(pairs)
    mark = digest(
        [settings.model_dump(exclude={*GslrmFinetuning.harmless, "turntable_views"}),
         sha256(checkpoint), inputs.data_hash, targets.data_hash, pairs, __version__]
    )  # fmt: skip
    state = TrainingState(state_folder / "states", mark, save_minutes=settings.save_minutes)
    step, saved = state.load(at_most=settings.steps)
    if settings.compile:
        model.decode_raw = torch.compile(model.decode_raw)  # type: ignore[method-assign]
    updates = 0
    if saved is not None:
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        updates = saved["updates"]
        say(f"Resuming at step {step}.")
    stop = StopRequest(minutes)
    model.train()

    drawn_per_step = settings.view_choice != "first"
    same_pictures = inputs.data_hash == targets.data_hash
    sample_bytes = 16 * targets.image_size**2 * (len(targets.sample(pairs[names[0]]).files) + inputs.views)

    @functools.lru_cache(maxsize=int(settings.cache_gigabytes * 2**30 / sample_bytes))
    def views_of(name: str) -> tuple[Views, Views]:
        eight_bit = settings.compositing == "8bit"
        wanted = load_views(targets, pairs[name], eight_bit=eight_bit)
        seen = wanted if same_pictures and pairs[name] == name else load_views(inputs, name, drawn_per_step, eight_bit)
        return seen if drawn_per_step else seen.select(slice(settings.input_views)), wanted

    def batch_at(at: int) -> tuple[Views, Views]:
        drawn = batch_indices(len(names), settings.batch_size, at, settings.seed)
        chosen = list(readers.map(views_of, [names[i] for i in drawn]))
        seen, wanted = [c[0] for c in chosen], [c[1] for c in chosen]
        if drawn_per_step:
            draws = random.Random(derived_seed(settings.seed, at))
            chosen = [_drawn_views(w, settings, draws) for w in wanted]
            wanted, seen = [c[0] for c in chosen], [c[1] for c in chosen]
        elif settings.target_views is not None:
            rng = np.random.default_rng([settings.seed, at, 2])
            wanted = [w.select(sorted(rng.permutation(len(w.images))[: settings.target_views].tolist())) for w in wanted]
        batch = Views.stacked(seen), Views.stacked(wanted)
        return (batch[0].pinned(), batch[1].pinned()) if device.type == "cuda" else batch

    tracker = Tracker(state_folder, wandb, run_name, "gslrm", settings.model_dump(mode="json"), step=step, until=settings.steps)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=settings.mixed_precision == "bf16")
    pace = Pace(step, settings.batch_size)
    with (
        tracker, Bar("gslrm", settings.steps, start=step) as bar,
        ThreadPoolExecutor(8) as readers, ThreadPoolExecutor(2) as assemblers,
    ):  # fmt: skip
        coming = deque(assemblers.submit(batch_at, at) for at in range(step, step + AHEAD))
        while step < settings.steps:
            seen, wanted = (views.to(device) for views in coming.popleft().result())
            coming.append(assemblers.submit(batch_at, step + AHEAD))
            with autocast:
                output = reconstruct(model, seen)
            drawn = render_views(output, wanted, settings.renderer)
            losses = gslrm_loss(
                losses_at(settings, step), drawn.images, drawn.alphas, wanted.images, wanted.alphas, output.pixel_xyz,
                pixel_rays(seen.c2w, seen.intrinsics, *seen.images.shape[-2:]), mask_pixelalign=False, vgg=vgg,
            )  # fmt: skip
            losses.total.backward()
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, settings)
            shaping = step < settings.pointsdist_warmup_steps
            limit = math.inf if shaping else settings.gradient_clip
            gradient_norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), limit))
            if gradient_norm <= limit * settings.allowed_gradnorm_factor:
                optimizer.step()
                updates += 1
            optimizer.zero_grad(set_to_none=True)
            step += 1
            if step % settings.log_every == 0 or step == settings.steps:
                total = float(losses.total.detach())
                if not math.isfinite(total):
                    raise FloatingPointError(f"The GS-LRM loss is {total} at step {step}; lower gslrm.learning_rate.")
                values = {f"train/{k}": float(v.detach()) for k, v in losses.terms.items()}
                values |= {
                    "train/loss": total, "train/lr": learning_rate(step - 1, settings), "train/grad_norm": gradient_norm,
                    "train/update_ratio": updates / step, **pace.values(step),
                }  # fmt: skip
                tracker.log(step, values)
                bar.update(step, f"loss {total:.4f}")
            if step % settings.checkpoint_every == 0 or step == settings.steps or state.due or stop:
                snapshot = {k: v.detach().cpu() for k, v in model.state_dict().items()}
                state.save(step, {"model": snapshot, "optimizer": optimizer.state_dict(), "updates": updates})
            if stop and step < settings.steps:
                raise Unfinished(f"Stopped at step {step} of {settings.steps} ({stop.reason}); run again to go on.")
    if updates < 0.8 * settings.steps:
        say(f"Warning: only {updates} of {settings.steps} steps updated the weights; gradients exceed the limit too often.")
    with written_aside(out) as temporary:
        save_gslrm(model, temporary, updates, step)
        _check_written(temporary, model)


def _check_written(path: Path, model: Gslrm) -> None:
    """Read a written checkpoint back and compare it with the network, tensor by tensor."""
    from safetensors.torch import load_file

    written = load_file(path)
    for key, value in model.state_dict().items():
        if not torch.equal(written[f"model.{key}"], value.detach().cpu()):
            raise InputError(f"{path}: {key} read back differs from the weights; is the disk full?")


def _drawn_views(views: Views, settings: GslrmFinetuning, draws: random.Random) -> tuple[Views, Views]:
    """Targets (inputs included) and inputs of one object, drawn as published."""
    wanted = settings.target_views or len(views.images)
    positions = views.c2w[:, :3, 3].cpu().numpy()
    choice = choose_views(positions, wanted, settings.input_views, settings.view_choice == "overlap", True, draws)
    return views.select([*choice.inputs, *choice.targets]), views.select(choice.inputs)
