"""Multi-view diffusion training from cached latents, one segment up to a checkpoint at a time.

A segment reads: prepare, restore, then per step: pass, update, watch, tail (finite? save? stop?), and export at the end.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.training_utils import EMAModel
from torch import Tensor

from mvfl.config.evaluation import above_chance
from mvfl.config.experiment import Training, TrainingRun
from mvfl.mvdiffusion.batches import TrainingData, make_batch
from mvfl.mvdiffusion.objective import Batch, Objective, draw
from mvfl.mvdiffusion.pipeline import MultiViewPipeline
from mvfl.mvdiffusion.unet import reference_path_norm, with_views
from mvfl.records.collapsed import CollapseLimits, CollapseNote
from mvfl.runtime.compiling import compiles, start_compilers
from mvfl.runtime.devices import Pace, accelerator, processes, same_bits
from mvfl.runtime.endings import Collapsed
from mvfl.runtime.fingerprint import Fingerprint
from mvfl.runtime.lock import require_space
from mvfl.runtime.loop import Tail, agreed, each_share, left_together
from mvfl.runtime.progress import Bar, say
from mvfl.runtime.randomness import generator
from mvfl.runtime.tracking import Run, Tracker
from mvfl.runtime.training_state import StopRequest, TrainingState

COLLAPSED = "collapsed.json"
Validate = Callable[[MultiViewPipeline, int], tuple[Path, dict[str, float]]]


@contextlib.contextmanager
def ema_weights(unet: UNet2DConditionModel, ema: EMAModel) -> Iterator[UNet2DConditionModel]:
    """The network with its averaged weights, ready for use; the trained ones come back in any case."""
    training = unet.training
    ema.store(unet.parameters())
    ema.copy_to(unet.parameters())
    unet.eval()
    try:
        yield unet
    finally:
        ema.restore(unet.parameters())
        unet.train(training)


def collapse_sign(scores: dict[str, float], limits: Training, views: int) -> str | None:
    """A sentence when validation scores of objects of some views show collapse by the run's own limits."""
    if scores["val/copy_score"] > limits.watch_copy_score:
        return f"the views repeat the input (copy score {scores['val/copy_score']:.2f}, limit {limits.watch_copy_score})."
    if scores["val/slot_accuracy"] <= (limit := above_chance(limits.watch_slot_accuracy, views)):
        return f"only {scores['val/slot_accuracy']:.0%} of the views show the direction of their slot (limit {limit:.0%})."
    return None


class MultiViewTraining:
    """One segment of a training.

    Args:
        experiment: settings.
        pipeline: of the base; its UNet is prepared for the view conditioning and is trained in place.
        data: what to learn from.
        folder: training state and log; not a declared output.
        fingerprint: what makes a saved state usable.
        until: last optimiser step of this segment; a boundary of the curriculum never lies inside.
        minutes: time budget.
    """

    def __init__(
        self, experiment: TrainingRun, pipeline: MultiViewPipeline, data: TrainingData, folder: Path, fingerprint: Fingerprint,
        until: int, minutes: float | None,
    ) -> None:  # fmt: skip
        t = self.t = experiment.training
        if t.deterministic:
            same_bits()
        self.experiment, self.pipeline, self.folder, self.until = experiment, pipeline, folder, until
        several = processes().num_processes
        self.accumulation = each_share(t.gradient_accumulation, several, "training.gradient_accumulation", "forward passes")
        self.accelerator = accelerator(mixed_precision=t.mixed_precision, gradient_accumulation_steps=self.accumulation)
        self.device, self.main = self.accelerator.device, self.accelerator.is_main_process
        self.stop = StopRequest(minutes)
        self.unet: UNet2DConditionModel = pipeline.unet.train()
        if t.gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()
        self.objective = Objective(
            DDPMScheduler.from_config(pipeline.scheduler.config), pipeline.image_normalizer.to(self.device),
            pipeline.image_noising_scheduler, pipeline.vae.config.scaling_factor, t.condition_drop_rate, t.snr_weighting,
            t.snr_gamma,
        )  # fmt: skip
        self.data = TrainingData(data.parts, data.prompts.to(self.device))
        # Weights, EMA and two moments per state, one state in the making, and the exported weights.
        weight_bytes = 4 * sum(p.numel() for p in self.unet.parameters())
        require_space(folder, 4 * weight_bytes * (t.keep_states + 1) + weight_bytes, "Training", "training.keep_states")
        self.unet.to(self.device)
        self.optimizer: Any = torch.optim.AdamW(
            self.unet.parameters(), lr=t.learning_rate, weight_decay=t.weight_decay, fused=True, eps=1e-8
        )
        self.ema = EMAModel(self.unet.parameters(), decay=t.ema_decay, foreach=True)
        with self.accelerator.main_process_first():
            self.state = TrainingState(folder / "states", fingerprint, t.keep_states, t.save_minutes, t.state_gigabytes)
        _refuse_if_collapsed(folder, t)
        self.step, self.gradient_norm, self.collapsed = 0, math.nan, ""
        self.coming: Future[list[tuple[int, Batch]]] | None = None

    # ------------------------------------------------------------------------------------------------- restore
    def restore(self, start: int = 0, weights: Callable[[], dict[str, Tensor]] | None = None) -> None:
        """Go on from the newest state, or from the weights that the segment before left, or from the base.

        Args:
            start: step at which this segment begins.
            weights: reads the weights of that step, for a segment after the first one.
        """
        step, saved = self.state.load(at_most=self.until)
        if step < start and weights is not None:
            say(f"No training state reaches step {start}: starting from the weights that were exported there, optimiser anew.")
            self.unet.load_state_dict(weights())
            self.ema = EMAModel(self.unet.parameters(), decay=self.t.ema_decay, foreach=True)
            step, saved = start, None
        if saved is not None:
            self.unet.load_state_dict(saved["unet"])
            self.optimizer.load_state_dict(saved["optimizer"])
            self.ema.load_state_dict(saved["ema"])
            if self.accelerator.scaler is not None and saved["scaler"] is not None:
                self.accelerator.scaler.load_state_dict(saved["scaler"])
            done = f"Step {step} is trained already: its weights are written again."
            say(done if step == self.until else f"Resuming at step {step}.")
        elif self.main:
            say(
                f"Starting at step {step}, {self.accelerator.num_processes} processes; norm of the reference path in conv_in: "
                f"{reference_path_norm(self.unet):.4f}."
            )
        self.step = step
        self.ema.to(self.device)
        self.model, self.optimizer = self.accelerator.prepare(self.unet, self.optimizer)
        self.compiled = compiles(self.t.compile)
        if self.compiled:
            start_compilers()
        self.forward = torch.compile(self.model, dynamic=False) if self.compiled else self.model

    def snapshot(self) -> dict[str, Any]:
        """What is needed to go on bit for bit."""
        return {
            "unet": {k: v.detach().cpu() for k, v in self.unet.state_dict().items()},
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state_dict(),
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler is not None else None,
        }

    # ---------------------------------------------------------------------------------------------------- steps
    def run(self, run: Run, validate: Validate | None = None) -> None:
        """Train up to the last step.

        Args:
            run: what W&B is told.
            validate: samples a grid with the EMA weights and returns its path and scores.

        Raises:
            Unfinished: stopped in good order by a signal or the time budget.
            Collapsed: the views repeat the input or stand in wrong slots, and the settings say to stop then.
            FloatingPointError: the loss or a gradient is not finite.
        """
        t = self.t
        remedy = "lower training.learning_rate or use mixed_precision bf16"
        tail = Tail(self.state, self.stop, self.until, t.checkpoint_every, self.snapshot, remedy)
        tracker = Tracker(self.folder, run, active=self.main, step=self.step, until=self.until)
        pace = Pace(self.step, t.batch_size * t.gradient_accumulation)
        bar = Bar("train", self.until, start=self.step)
        with left_together(self.accelerator), tracker, bar, ThreadPoolExecutor(1) as reader:
            while self.step < self.until:
                losses = self.advance(tail, reader)
                if self.step % t.log_every == 0 or self.step == self.until:
                    self._log(losses, tracker, bar, pace)
                if self.main and validate is not None:
                    self._watch(validate, tracker)
                stopping, collapsed, spent = agreed(self.accelerator, bool(self.stop), bool(self.collapsed), self.stop.time_spent)
                if self.main:
                    tail.save_if_due(self.step, stopping)
                if collapsed:
                    self._end_collapsed()
                tail.leave_if_stopping(self.step, stopping, spent)
        self.stop.release()

    def advance(self, tail: Tail, reader: Executor) -> Tensor:
        """One optimiser step; its losses. Meanwhile `reader` prepares the next step's batches."""
        batches = (self.coming or reader.submit(self._prepare, self.step)).result()
        self.coming = reader.submit(self._prepare, self.step + 1) if self.step + 1 < self.until else None
        losses = self._accumulate(batches)
        self._update(losses, tail)
        return losses

    def _micro_batches(self) -> Iterator[tuple[int, int]]:
        """This process's micro-batches of a step: number here, and number among those of all processes."""
        for here in range(self.accumulation):
            yield here, here * self.accelerator.num_processes + self.accelerator.process_index

    def _prepare(self, step: int) -> list[tuple[int, Batch]]:
        """The batches of a step, each with the number of views that it shows."""
        t, out = self.t, []
        for _, number in self._micro_batches():
            part, mine = self.data.draw(t.seed, step * t.gradient_accumulation + number, t.batch_size)
            key, scale = [t.seed, step, number], self.objective.scaling_factor
            batch = make_batch(part, self.data.prompts, self.experiment, mine, key, scale, self.device)
            out.append((part.views_shown(t.views_per_step), batch))
        return out

    def _accumulate(self, batches: list[tuple[int, Batch]]) -> Tensor:
        """Forward and backward of one step's batches; their losses."""
        t, a = self.t, self.accelerator
        losses = []
        for (here, number), (views, batch) in zip(self._micro_batches(), batches, strict=True):
            with_views(self.unet, views)
            draws = draw(
                t.batch_size, views, batch.reference_latents.shape[1:], batch.embeds.shape[1], self.objective.timesteps,
                generator(self.device, t.seed, self.step, number),
            )  # fmt: skip
            last = here + 1 == self.accumulation
            with contextlib.nullcontext() if last else a.no_sync(self.model), a.autocast():
                result = self.objective.loss(self.forward, batch, draws)
                a.backward(result.loss)
            losses.append(result.loss.detach())
        return torch.stack(losses)

    def _update(self, losses: Tensor, tail: Tail) -> None:
        """Clip, step, average; nothing of it with numbers that are not finite."""
        t, scaled = self.t, self.accelerator.scaler is not None
        self.gradient_norm = float(self.accelerator.clip_grad_norm_(self.model.parameters(), t.gradient_clip))
        # With fp16 a gradient is infinite now and then, while the loss scale is found: the scaler skips that step itself.
        if not scaled:
            tail.require_finite(self.step + 1, float(losses.sum()), self.gradient_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = t.learning_rate * min(1.0, (self.step + 1) / max(1, t.warmup_steps))
        self.optimizer.step()
        skipped = self.accelerator.optimizer_step_was_skipped
        if scaled and not skipped:
            tail.require_finite(self.step + 1, float(losses.sum()), self.gradient_norm)
        self.optimizer.zero_grad(set_to_none=True)
        if not skipped:
            self.ema.step(self.unet.parameters())
        self.step += 1

    def _log(self, losses: Tensor, tracker: Tracker, bar: Bar, pace: Pace) -> None:
        loss = float(self.accelerator.gather(losses).mean())
        values = {"train/loss": loss, "train/lr": self.optimizer.param_groups[0]["lr"], "train/grad_norm": self.gradient_norm}
        tracker.log(self.step, {**values, **pace.values(self.step)})
        bar.update(self.step, f"loss {loss:.4f}")

    def _watch(self, validate: Validate, tracker: Tracker) -> None:
        """Look at pictures at regular steps; at some early ones, for signs of collapse."""
        t, step = self.t, self.step
        watched = step in t.watch_steps
        if not (watched or step % t.validate_every == 0):
            return
        with ema_weights(self.unet, self.ema) as unet:
            self.pipeline.unet = unet
            picture, scores = validate(self.pipeline.to(unet.device), step)
        for tower in (self.pipeline.vae, self.pipeline.image_encoder):
            tower.to("cpu")  # three gigabytes at full size, which the steps until the next look can use
        tracker.log(step, scores)
        if watched and (sign := collapse_sign(scores, t, len(self.data.parts[0].rig.cameras))):
            say(f"Warning at step {step}: {sign} Look at {picture}.")
            tracker.log(step, {"val/collapsed": 1.0})
            if t.stop_on_collapse:
                self.collapsed = f"Stopped at step {step}: {sign} The pictures are in {picture.parent}."
                CollapseNote(limits=CollapseLimits.of(t), sentence=self.collapsed).write(self.folder / COLLAPSED)
        tracker.log_image("validation/images", picture, step)

    def _end_collapsed(self) -> NoReturn:
        raise Collapsed(self.collapsed or f"Stopped at step {self.step}: the first process saw the views collapse.")


def _refuse_if_collapsed(folder: Path, t: Training) -> None:
    """A run that was ended for its collapse must not be carried on by the workflow's own retries."""
    path = folder / COLLAPSED
    if not t.stop_on_collapse or not path.exists():
        return
    note = CollapseNote.read(path)
    if note.limits == CollapseLimits.of(t):
        raise Collapsed(
            f"{note.sentence} It is not carried on: change the experiment, the watch_ limits, or set stop_on_collapse to false."
        )
