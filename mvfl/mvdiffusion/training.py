"""Stage `train`: multi-view diffusion training from cached latents, one segment up to a checkpoint at a time."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.training_utils import EMAModel
from jaxtyping import Float
from torch import Tensor

from mvfl import __version__
from mvfl.base.record import read_record
from mvfl.config.schema import Training, TrainingRun, Wandb
from mvfl.data.latents import LatentCache, open_cache
from mvfl.geometry.rig import Rig
from mvfl.mvdiffusion.conditioning import SlotTable, slot_table
from mvfl.mvdiffusion.objective import Batch, diffusion_loss, draw
from mvfl.mvdiffusion.pipeline import MultiViewPipeline
from mvfl.mvdiffusion.unet import load_unet, reference_path_norm, widen_conv_in, with_view_conditioning
from mvfl.runtime.devices import Pace
from mvfl.runtime.files import InputError, digest, read_json, write_json, written_aside
from mvfl.runtime.lock import require_space
from mvfl.runtime.progress import Bar, say
from mvfl.runtime.provenance import write_provenance
from mvfl.runtime.randomness import batch_indices, generator
from mvfl.runtime.tracking import Tracker
from mvfl.runtime.training_state import Collapsed, StopRequest, TrainingState, Unfinished

COLLAPSED = "collapsed.json"


@dataclass(frozen=True)
class TrainingPaths:
    """Where a training segment reads and writes.

    Attributes:
        base: `base.json` of the base.
        latents: cache of the data set under this base.
        prompts: `clr_embeds.pt` of the prompt style of this segment.
        state: training state, log and validation grids; not a declared output.
        out: exported checkpoint folder.
        start: exported checkpoint that the segment continues from, or None for the first segment.
    """

    base: Path
    latents: Path
    prompts: Path
    state: Path
    out: Path
    start: Path | None = None


def collapse_sign(scores: dict[str, float], limits: Training) -> str | None:
    """A sentence when validation scores show collapse by the run's own limits."""
    if scores["val/copy_score"] > limits.watch_copy_score:
        return f"the views repeat the input (copy score {scores['val/copy_score']:.2f}, limit {limits.watch_copy_score})."
    if scores["val/slot_accuracy"] <= limits.watch_slot_accuracy:
        return (
            f"only {scores['val/slot_accuracy']:.0%} of the views show the direction of their slot "
            f"(limit {limits.watch_slot_accuracy:.0%})."
        )
    return None


def load_prompts(path: Path, unet: UNet2DConditionModel) -> Float[Tensor, "view token channel"]:
    """Read `clr_embeds.pt` and check that it fits the UNet.

    Raises:
        InputError: missing, not a tensor, another width or number of views, or not finite.
    """
    try:
        embeds = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; run the `prompts` target first.") from error
    width, views = unet.config.cross_attention_dim, unet.config.num_views
    if not isinstance(embeds, Tensor) or embeds.ndim != 3 or len(embeds) != views or not torch.isfinite(embeds).all():
        raise InputError(f"{path} must hold one finite tensor [{views}, tokens, {width}]; encode the prompts again.")
    if embeds.shape[2] != width:
        raise InputError(
            f"{path} is {embeds.shape[2]} wide, the UNet's cross attention needs {width}. It comes from another text "
            "encoder: encode the prompts with the base's own text encoder (`mvfl prompts`)."
        )
    return embeds.float()


def fingerprint(experiment: TrainingRun, data_hash: str, base_hash: str) -> str:
    """Digest of everything that makes a training state usable for an experiment."""
    training = experiment.training.model_dump(exclude=set(Training.harmless))
    rest = experiment.model_dump(include={"prompt_style", "reference", "view_conditioning", "curriculum", "augmentation"})
    return digest([training, rest, data_hash, base_hash, __version__])


def make_batch(
    cache: LatentCache, slots: SlotTable, reference: int | Literal["random"], samples: np.ndarray, draw_seed: list[int],
    prompts: Tensor, scaling_factor: float, device: torch.device,
) -> Batch:  # fmt: skip
    """Collect cached latents in slot order for some samples; variant and reference are drawn from `draw_seed`."""
    rng = np.random.default_rng(draw_seed)
    variants = rng.integers(cache.variants, size=len(samples))
    drawn = rng.integers(len(slots.views), size=len(samples))
    references = drawn if reference == "random" else np.full(len(samples), reference)
    picked = cache.moments[samples[:, None], variants[:, None], slots.views[references]]
    moments = torch.from_numpy(picked).to(device, non_blocking=True).float()
    seen = torch.from_numpy(cache.moments[samples, variants, references]).to(device).float()
    channels = seen.shape[1] // 2
    poses = None if slots.poses is None else slots.poses[references].flatten(0, 1).to(device)
    return Batch(
        target_moments=moments.flatten(0, 1),
        reference_latents=seen[:, :channels] * scaling_factor,
        embeds=torch.from_numpy(cache.embeds[samples, variants, references]).to(device),
        prompts=prompts,
        poses=poses,
    )


def train_segment(
    experiment: TrainingRun,
    until_step: int,
    paths: TrainingPaths,
    wandb: Wandb,
    minutes: float | None = None,
    validate: Callable[[MultiViewPipeline, int], tuple[Path, dict[str, float]]] | None = None,
) -> None:
    """Train from the newest saved state to `until_step` and export the EMA weights.

    Args:
        experiment: settings.
        until_step: last optimiser step of this segment; a boundary of the curriculum never lies inside.
        paths: inputs and outputs.
        wandb: tracking.
        minutes: time budget; the run saves and raises `Unfinished` before it is spent.
        validate: draws a grid from the EMA weights and returns its path and scores.

    Raises:
        Unfinished: stopped in good order by a signal or the time budget.
        InputError: inputs that do not belong together.
        FloatingPointError: the loss became NaN.
    """
    t: Training = experiment.training
    index = read_json(paths.latents / "index.json", "run the cache_latents rule first")
    base = read_record(paths.base)
    if index["base_hash"] != base.hash:
        raise InputError(f"{paths.latents} was encoded with another base ({index['base_hash']}, not {base.hash}); delete it.")
    rig = Rig.from_json(index["rig"], str(paths.latents))
    accelerator = Accelerator(mixed_precision=t.mixed_precision, gradient_accumulation_steps=t.gradient_accumulation)
    device, main = accelerator.device, accelerator.is_main_process
    stop = StopRequest(minutes)

    pipeline = MultiViewPipeline.from_pretrained(base.pipeline)
    unet = with_view_conditioning(widen_conv_in(pipeline.unet), experiment.view_conditioning).train()
    pipeline.unet, pipeline.text_encoder = unet, None  # prompts are encoded already; nothing stays in memory twice
    if unet.config.num_views != len(rig.cameras):
        raise InputError(f"The base draws {unet.config.num_views} views, the data set has {len(rig.cameras)} cameras.")
    if experiment.reference != "random" and experiment.reference >= len(rig.cameras):
        raise InputError(f"reference {experiment.reference} does not exist: rig {rig.name} has views 0 to {len(rig.cameras) - 1}.")
    if experiment.view_conditioning == "relative_prompt" and not rig.is_symmetric:
        raise InputError(
            f"view_conditioning relative_prompt needs a uniform ring, and rig {rig.name} is none: the prompt words would mean "
            "other directions for every reference. Use relative_pose."
        )
    prompts = load_prompts(paths.prompts, unet).to(device)
    if t.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    normalizer = pipeline.image_normalizer.to(device)
    scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
    scaling_factor = pipeline.vae.config.scaling_factor
    cache = open_cache(paths.latents, "train")
    slots = slot_table(rig, experiment.view_conditioning)
    norm_at_start = reference_path_norm(unet)

    # Weights, EMA and two moments per state, one state in the making, and the exported weights.
    weight_bytes = 4 * sum(p.numel() for p in unet.parameters())
    require_space(paths.state, 4 * weight_bytes * (t.keep_states + 1) + weight_bytes, "Training")
    unet.to(device)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=t.learning_rate, weight_decay=t.weight_decay, fused=True, eps=1e-8)
    ema = EMAModel(unet.parameters(), decay=t.ema_decay, foreach=True)
    mark = fingerprint(experiment, index["data_hash"], base.hash)
    with accelerator.main_process_first():
        state = TrainingState(paths.state / "states", mark, t.keep_states, t.save_minutes, t.state_gigabytes)
        step, saved = state.load(at_most=until_step)
    _refuse_if_collapsed(paths.state, t)
    start_step = int(paths.start.name.split("-")[1]) if paths.start else 0
    if step < start_step and paths.start is not None:
        # The state is gone, but the segment before this one left its weights.
        say(f"No training state reaches step {start_step}: starting from the weights of {paths.start}, optimiser anew.")
        unet.load_state_dict(load_unet(paths.start / "unet").state_dict())
        ema = EMAModel(unet.parameters(), decay=t.ema_decay, foreach=True)
        step, saved = start_step, None
    if saved is not None:
        unet.load_state_dict(saved["unet"])
        optimizer.load_state_dict(saved["optimizer"])
        ema.load_state_dict(saved["ema"])
        if accelerator.scaler is not None and saved["scaler"] is not None:
            accelerator.scaler.load_state_dict(saved["scaler"])
        del saved
        say(f"Resuming at step {step}.")
    elif main:
        say(
            f"Starting at step 0, {accelerator.num_processes} processes; norm of the reference path in conv_in: "
            f"{norm_at_start:.4f}."
        )
    ema.to(device)
    model, optimizer = accelerator.prepare(unet, optimizer)
    forward = torch.compile(model) if t.compile else model

    def snapshot() -> dict[str, Any]:
        return {
            "unet": {k: v.detach().cpu() for k, v in unet.state_dict().items()},
            "optimizer": optimizer.state_dict(),
            "ema": ema.state_dict(),
            "scaler": accelerator.scaler.state_dict() if accelerator.scaler is not None else None,
        }

    collapsed: str | None = None
    per_pass = t.batch_size * accelerator.num_processes
    run_config = {"experiment": experiment.model_dump(mode="json"), "until_step": until_step}
    tracker = Tracker(paths.state, wandb, experiment.wandb_run, "mvdiffusion", run_config, active=main, step=step, until=until_step)
    pace = Pace(step, per_pass * t.gradient_accumulation)
    with tracker, Bar("train", until_step, start=step) as bar:
        while step < until_step:
            samples = batch_indices(len(cache), per_pass * t.gradient_accumulation, step, t.seed)
            losses = []
            for micro in range(t.gradient_accumulation):
                place = micro * accelerator.num_processes + accelerator.process_index
                mine = samples[place * t.batch_size : (place + 1) * t.batch_size]
                key = [t.seed, step, place]
                batch = make_batch(cache, slots, experiment.reference, mine, key, prompts, scaling_factor, device)
                draws = draw(
                    len(mine), len(rig.cameras), batch.reference_latents.shape[1:], batch.embeds.shape[1],
                    scheduler.config.num_train_timesteps, generator(device, *key),
                )  # fmt: skip
                last = micro + 1 == t.gradient_accumulation
                with contextlib.nullcontext() if last else accelerator.no_sync(model), accelerator.autocast():
                    result = diffusion_loss(
                        forward, batch, draws, scheduler, normalizer, pipeline.image_noising_scheduler, scaling_factor,
                        t.condition_drop_rate, t.snr_weighting, t.snr_gamma,
                    )  # fmt: skip
                    accelerator.backward(result.loss)
                losses.append(result.loss.detach())
            gradient_norm = accelerator.clip_grad_norm_(model.parameters(), t.gradient_clip)
            for group in optimizer.param_groups:
                group["lr"] = t.learning_rate * min(1.0, (step + 1) / max(1, t.warmup_steps))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            ema.step(unet.parameters())
            step += 1
            if step % t.log_every == 0 or step == until_step:
                loss = float(accelerator.gather(torch.stack(losses)).mean())
                if not np.isfinite(loss):
                    raise FloatingPointError(
                        f"The training loss is {loss} at step {step}. The last good state is kept in {paths.state}; lower "
                        "training.learning_rate or use mixed_precision bf16."
                    )
                values = {
                    "train/loss": loss,
                    "train/lr": optimizer.param_groups[0]["lr"],
                    "train/grad_norm": float(gradient_norm),
                }
                values |= pace.values(step)
                tracker.log(step, values)
                bar.update(step, f"loss {loss:.4f}")
            watched = step in t.watch_steps
            if main and validate is not None and (watched or step % t.validate_every == 0):
                picture, scores = _validate(pipeline, unet, ema, validate, step)
                tracker.log(step, scores)
                if watched and (sign := collapse_sign(scores, t)):
                    say(f"Warning at step {step}: {sign} Look at {picture}.")
                    tracker.log(step, {"val/collapsed": 1.0})
                    if t.stop_on_collapse:
                        collapsed = f"Stopped at step {step}: {sign} The pictures are in {picture.parent}."
                        write_json(paths.state / COLLAPSED, {"limits": collapse_limits(t), "sentence": collapsed})
                tracker.log_image("validation/images", picture, step)
            # All processes leave the loop at the same step, or the others would wait for ever.
            wishes = torch.tensor([float(bool(stop)), float(collapsed is not None)], device=device)
            stop_all, collapsed_all = (accelerator.reduce(wishes) > 0).tolist()
            due = step % t.checkpoint_every == 0 or step == until_step or state.due or stop_all
            if main and due:
                # With fp16 a step is skipped now and then while the loss scale is found: its gradients are infinite.
                finite = np.isfinite(float(gradient_norm)) or accelerator.optimizer_step_was_skipped
                if not (torch.isfinite(torch.stack(losses)).all() and finite):
                    raise FloatingPointError(
                        f"Loss or gradient is not finite at step {step}; nothing is saved. The last good state is kept in "
                        f"{paths.state}; lower training.learning_rate or use mixed_precision bf16."
                    )
                state.save(step, snapshot())
            if collapsed_all:
                raise Collapsed(collapsed or f"Stopped at step {step}: the first process saw the views collapse.")
            if stop_all and step < until_step:
                accelerator.wait_for_everyone()
                reason = stop.reason or "another process asked for it"
                raise Unfinished(f"Stopped at step {step} of {until_step} ({reason}); the state is saved, run again to go on.")
    if main:
        _export(unet, ema, experiment, until_step, paths, rig)
    accelerator.wait_for_everyone()


def collapse_limits(t: Training) -> list[Any]:
    """What collapse was looked for with; other limits deserve another look."""
    return [list(t.watch_steps), t.watch_copy_score, t.watch_slot_accuracy]


def _refuse_if_collapsed(folder: Path, t: Training) -> None:
    """A run that was ended for its collapse must not be carried on by the workflow's own retries."""
    note = folder / COLLAPSED
    if not t.stop_on_collapse or not note.exists():
        return
    found = read_json(note, f"delete {note}")
    if found["limits"] == collapse_limits(t):
        raise Collapsed(
            f"{found['sentence']} It is not carried on: change the experiment, the watch_ limits, or set stop_on_collapse to false."
        )


def _validate(
    pipeline: MultiViewPipeline, unet: UNet2DConditionModel, ema: EMAModel, validate: Any, step: int
) -> tuple[Path, dict[str, float]]:
    ema.store(unet.parameters())
    ema.copy_to(unet.parameters())
    unet.eval()
    try:
        pipeline.unet = unet
        return validate(pipeline.to(unet.device), step)
    finally:
        ema.restore(unet.parameters())
        unet.train()


def _export(unet: UNet2DConditionModel, ema: EMAModel, experiment: TrainingRun, step: int, paths: TrainingPaths, rig: Rig) -> None:
    """Write the EMA weights: the one artefact that evaluation and generation both use."""
    ema.store(unet.parameters())
    ema.copy_to(unet.parameters())
    with written_aside(paths.out) as folder:
        unet.save_pretrained(folder / "unet")
        shutil.copyfile(paths.state / "log.jsonl", folder / "log.jsonl")
        inputs: dict[str, Path | str] = {
            "prompts": paths.prompts,
            "latents": paths.latents / "index.json",
            "base": paths.base,
        }
        write_provenance(folder, "train", {"step": step, **experiment.model_dump(mode="json")}, inputs, rig.hash)
        reopened = load_unet(folder / "unet")
        worst = max(
            float((a.cpu() - b).abs().max())
            for a, b in zip(unet.state_dict().values(), reopened.state_dict().values(), strict=True)
        )
        if worst > 0:
            raise InputError(f"The checkpoint read back from {folder} differs from the weights by {worst}; is the disk full?")
    ema.restore(unet.parameters())
