"""GS-LRM's fine-tuning: prepare, restore, then per step: render and compare, update, log, tail (finite? save? stop?)."""

from __future__ import annotations

import math
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from mvfl.config.gslrm import GslrmFinetuning
from mvfl.gslrm.batches import Batches
from mvfl.gslrm.checkpoint import load_gslrm
from mvfl.gslrm.lora import add_adapters
from mvfl.gslrm.losses import LossValues, PixelGaussians, Targets, gslrm_loss, load_vgg, losses_at
from mvfl.gslrm.model import Gslrm, freeze, pixel_rays
from mvfl.gslrm.scoring import reconstruct, render_views
from mvfl.gslrm.views import Views
from mvfl.gslrm.watching import Look, Watch
from mvfl.runtime.compiling import start_compilers
from mvfl.runtime.devices import Pace, accelerator
from mvfl.runtime.fingerprint import Fingerprint
from mvfl.runtime.lock import require_space
from mvfl.runtime.loop import Tail, agreed, left_together
from mvfl.runtime.progress import Bar, say
from mvfl.runtime.tracking import Run, Tracker
from mvfl.runtime.training_state import StopRequest, TrainingState

AHEAD = 3  # batches read while a step runs
KEPT_STATES = 2


def learning_rate(step: int, settings: GslrmFinetuning) -> float:
    """Linear warm-up, then a cosine to zero over the rest of the cycle; later cycles begin at the full rate (SGDR)."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    begun = settings.warmup_steps if step < settings.cycle else 0
    progress = (step % settings.cycle - begun) / max(1, settings.cycle - begun)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def optimizer_for(model: Gslrm, settings: GslrmFinetuning) -> torch.optim.AdamW:
    """AdamW (0.9, 0.95); weight decay only on tensors with two or more dimensions."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.95), fused=True)


class GslrmTraining:
    """One fine-tuning.

    Args:
        settings: what to do.
        checkpoint: starting weights in the published layout.
        batches: pictures of each step.
        folder: training state and log.
        fingerprint: what makes a saved state usable.
        minutes: time budget.
        look: renders and scores unseen cameras; None: nothing is looked at.
    """

    def __init__(
        self, settings: GslrmFinetuning, checkpoint: Path, batches: Batches, folder: Path, fingerprint: Fingerprint,
        minutes: float | None, look: Look | None = None,
    ) -> None:  # fmt: skip
        s = self.settings = settings
        self.batches, self.folder, self.watch = batches, folder, Watch(settings, folder, look)
        self.accelerator = accelerator()
        self.device, self.main = self.accelerator.device, self.accelerator.is_main_process
        self.stop = StopRequest(minutes)
        self.model: Gslrm = load_gslrm(checkpoint, batches.image_size, s.clip_xyz).to(self.device)
        share = freeze(self.model, s.freeze.transformer_until, s.freeze.patch_embedder, s.freeze.positional_embeddings)
        if s.lora:
            share = add_adapters(self.model, s.lora, s.seed)
        say(f"GS-LRM: {share:.1%} of the parameters are trained.")
        self.model.gradient_checkpointing = s.gradient_checkpointing
        self.vgg = load_vgg(s.losses.vgg_path or checkpoint).to(self.device) if s.losses.perceptual > 0 else None
        # Weights and two moments per state, one state in the making, and the written weights.
        weight_bytes = 4 * sum(p.numel() for p in self.model.parameters())
        require_space(folder, 3 * weight_bytes * (KEPT_STATES + 1) + weight_bytes, "Fine-tuning of GS-LRM", "the number of results")
        self.optimizer = optimizer_for(self.model, s)
        with self.accelerator.main_process_first():
            self.state = TrainingState(folder / "states", fingerprint, KEPT_STATES, s.save_minutes)
        self.step = self.updates = 0
        self.gradient_norm = math.nan

    # ------------------------------------------------------------------------------------------------- restore
    def restore(self) -> None:
        """Go on from the newest state, where there is one."""
        step, saved = self.state.load(at_most=self.settings.steps)
        if self.settings.compile:
            start_compilers()
            self.model.decode_raw = torch.compile(self.model.decode_raw)  # type: ignore[method-assign]
        if saved is not None:
            self.model.load_state_dict(saved["model"])
            self.optimizer.load_state_dict(saved["optimizer"])
            self.updates, self.step = saved["updates"], step
            self.watch.restore(saved["looks"])
            last = step == self.settings.steps
            say(f"Step {step} is trained already: its results are written again." if last else f"Resuming at step {step}.")
        elif self.main:
            say(f"Starting at step 0, {self.accelerator.num_processes} processes.")
        # Of several processes each sees its share of a step's objects; their gradients are averaged.
        self.network = self.accelerator.prepare_model(self.model)

    def snapshot(self) -> dict[str, Any]:
        """What is needed to go on bit for bit."""
        weights = {k: v.detach().cpu() for k, v in self.model.state_dict().items()}
        looks = self.watch.snapshot()
        return {"model": weights, "optimizer": self.optimizer.state_dict(), "updates": self.updates, "looks": looks}

    # ---------------------------------------------------------------------------------------------------- steps
    def run(self, run: Run) -> None:
        """Train up to the last step.

        Args:
            run: what W&B is told.

        Raises:
            Unfinished: stopped in good order.
            FloatingPointError: the loss or a gradient is not finite.
        """
        s = self.settings
        self.model.train()
        tail = Tail(self.state, self.stop, s.steps, s.checkpoint_every, self.snapshot, "lower gslrm.learning_rate")
        tracker = Tracker(self.folder, run, active=self.main, step=self.step, until=s.steps)
        pace = Pace(self.step, s.batch_size)
        bar = Bar("gslrm", s.steps, start=self.step)
        with left_together(self.accelerator), tracker, bar, self.batches, ThreadPoolExecutor(2) as assemblers:
            coming = deque(assemblers.submit(self.batches.at, at) for at in range(self.step, self.step + AHEAD))
            ended = self.watch.is_hopeless
            while self.step < s.steps and not ended:
                seen, wanted = (views.to(self.device) for views in coming.popleft().result())
                coming.append(assemblers.submit(self.batches.at, self.step + AHEAD))
                losses = self._compare(seen, wanted)
                self._update(losses, tail)
                if self.step % s.log_every == 0 or self.step == s.steps:
                    self._log(losses, tracker, bar, pace)
                if self.main:
                    self._look(tracker)
                stopping, spent, ended = agreed(self.accelerator, bool(self.stop), self.stop.time_spent, self.watch.is_hopeless)
                if self.main:
                    tail.save_if_due(self.step, stopping or ended)
                tail.leave_if_stopping(self.step, stopping and not ended, spent)
        self.stop.release()

    def _look(self, tracker: Tracker) -> None:
        """Render unseen cameras where it is due."""
        if (found := self.watch.after(self.model, self.step, self.updates)) is None:
            return
        picture, scores = found
        tracker.log(self.step, scores)
        tracker.log_image("validation/images", picture, self.step)
        psnr, overlap = scores["val/foreground_psnr"], scores["val/mask_iou"]
        say(f"Step {self.step}: {psnr:.2f} dB, overlap {overlap:.3f} on unseen cameras.")
        if self.watch.is_hopeless and self.watch.best:
            say(f"No better one in {self.settings.patience} looks: the training ends; the best was step {self.watch.best.step}.")

    def _compare(self, seen: Views, wanted: Views) -> LossValues:
        """Reconstruct, render, and go back through both."""
        s = self.settings
        with torch.autocast(self.device.type, torch.bfloat16, enabled=s.mixed_precision == "bf16"):
            output = reconstruct(self.network, seen)
        rendered = render_views(output, wanted, s.renderer)
        rays = pixel_rays(seen.c2w, seen.intrinsics, *seen.images.shape[-2:])
        targets, pixels = Targets(wanted.images, wanted.alphas), PixelGaussians(output.pixel_xyz, rays)
        losses = gslrm_loss(losses_at(s, self.step), rendered, targets, pixels, mask_pixelalign=False, vgg=self.vgg)
        # While points are shaped, colours and sizes have no part in the loss; several processes wait for every gradient.
        unused = sum(t.sum() for g in output.gaussians for t in vars(g).values() if t.is_floating_point())
        (losses.total + 0 * unused if self.step < s.pointsdist_warmup_steps else losses.total).backward()
        return losses

    def _update(self, losses: LossValues, tail: Tail) -> None:
        """Clip and step, unless the gradient is far too long; nothing of it with numbers that are not finite."""
        s = self.settings
        shaping = self.step < s.pointsdist_warmup_steps
        parameters = list(self.model.parameters())
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        self.gradient_norm = float(norm)
        tail.require_finite(self.step + 1, float(losses.total.detach()), self.gradient_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, s)
        # While Gaussians are pulled into place (published), gradients are long and neither clipped nor skipped.
        if not shaping:
            torch.nn.utils.clip_grads_with_norm_(parameters, s.gradient_clip, norm)
        moves = shaping or self.gradient_norm <= s.gradient_clip * s.allowed_gradnorm_factor
        if moves:
            self.optimizer.step()
            self.updates += 1
        self.watch.updated(self.step + 1, moves)
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1

    def _log(self, losses: LossValues, tracker: Tracker, bar: Bar, pace: Pace) -> None:
        names = list(losses.terms)
        here = torch.stack([losses.total.detach(), *(losses.terms[k].detach() for k in names)])
        total, *terms = self.accelerator.reduce(here, "mean").tolist()
        values = {f"train/{k}": v for k, v in zip(names, terms, strict=True)}
        values |= {
            "train/loss": total, "train/lr": learning_rate(self.step - 1, self.settings), "train/grad_norm": self.gradient_norm,
            "train/update_ratio": self.updates / self.step, **pace.values(self.step),
        }  # fmt: skip
        tracker.log(self.step, values)
        bar.update(self.step, f"loss {total:.4f}")
