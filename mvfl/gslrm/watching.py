"""Looking at GS-LRM while it trains: how good it is on unseen cameras, which weights were best, whether it is worth going on."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mvfl.config.gslrm import GslrmFinetuning
from mvfl.gslrm.checkpoint import METADATA_KEY, save_gslrm
from mvfl.gslrm.lora import merged
from mvfl.gslrm.model import Gslrm
from mvfl.runtime.files import written_aside
from mvfl.runtime.progress import say
from mvfl.runtime.weights import read_metadata

BEST = "best.safetensors"
Look = Callable[[Gslrm, int], tuple[Path, dict[str, float]]]  # renders unseen cameras; path of a picture, and scores


@dataclass(frozen=True)
class Looked:
    """Foreground PSNR (dB) and mask IoU on unseen cameras after a step."""

    step: int
    psnr: float
    iou: float


class Watch:
    """What the looks at one training have shown.

    Args:
        settings: how often, and when to end.
        folder: keeps the best weights.
        look: renders and scores; None: nothing is looked at and the last weights are used.
    """

    def __init__(self, settings: GslrmFinetuning, folder: Path, look: Look | None) -> None:
        self.settings, self.folder, self.look = settings, folder, look
        self.history: list[Looked] = []
        self.recent: deque[bool] = deque(maxlen=100)
        self.warned = -math.inf

    @property
    def best(self) -> Looked | None:
        """The best look so far; the earlier one of equals."""
        return max(self.history, key=lambda looked: looked.psnr, default=None)

    @property
    def is_hopeless(self) -> bool:
        """Whether `patience` looks in a row brought nothing better."""
        patience, best = self.settings.patience, self.best
        return patience is not None and best is not None and len([h for h in self.history if h.step > best.step]) >= patience

    def is_due(self, step: int) -> bool:
        """Whether to look after this step: at regular ones, and once more at the end."""
        s = self.settings
        return self.look is not None and (step % s.validate_every == 0 or (step == s.steps and bool(self.history)))

    def after(self, model: Gslrm, step: int, updates: int) -> tuple[Path, dict[str, float]] | None:
        """Look at the weights after a step, where it is due, and keep them if they are the best so far.

        Args:
            model: as trained up to here.
            step: steps done.
            updates: of them, those that moved the weights.
        """
        if self.look is None or not self.is_due(step):
            return None
        before = self.best
        model.eval()
        picture, scores = self.look(model, step)
        model.train()
        self.history.append(Looked(step, scores["val/foreground_psnr"], scores["val/mask_iou"]))
        if before is None or self.history[-1].psnr > before.psnr:
            with written_aside(self.folder / BEST) as temporary:
                save_gslrm(merged(model), temporary, updates, step)
        return picture, scores

    def best_weights(self) -> Path | None:
        """Weights of the best look, where they are not the last ones; None: use the last."""
        best = self.best
        if self.settings.weights == "last" or best is None or best == self.history[-1]:
            return None
        file = self.folder / BEST
        if not file.is_file() or read_metadata(file, METADATA_KEY).get("fwdbwd_pass_step") != best.step:
            say(f"Warning: the best weights (step {best.step}) are gone from {self.folder}; the last ones are used.")
            return None
        return file

    def updated(self, step: int, moved: bool) -> None:
        """Say it while it happens that too few steps move the weights, at most every 500 steps."""
        self.recent.append(moved)
        share = sum(self.recent) / len(self.recent)
        if len(self.recent) == self.recent.maxlen and share < 0.8 and step - self.warned >= 500:
            self.warned = step
            say(
                f"Warning at step {step}: only {share:.0%} of the last {len(self.recent)} steps moved the weights; their gradients "
                "are too long. Lower gslrm.learning_rate, or raise gradient_clip or allowed_gradnorm_factor."
            )

    def snapshot(self) -> list[dict[str, Any]]:
        """What a resumed training needs to know of the looks before."""
        return [vars(looked) for looked in self.history]

    def restore(self, saved: list[dict[str, Any]]) -> None:
        """Take up what was seen before."""
        self.history = [Looked(**entry) for entry in saved]
