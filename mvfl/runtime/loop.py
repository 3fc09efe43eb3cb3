"""The tail of a training loop: is everything finite, is it time to save, is it time to stop? Both trainings share it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from mvfl.runtime.endings import Collapsed, TimeSpent, Unfinished
from mvfl.runtime.files import InputError
from mvfl.runtime.training_state import StopRequest, TrainingState

SAVING_MARGIN = 2.0  # times as long as the last save took is kept free before the time limit: file systems are not always as fast


def agreed(accelerator: Accelerator, *wishes: bool) -> list[bool]:
    """Whether any process wishes it: all leave a loop at the same step, or the others would wait for ever."""
    told = torch.tensor([float(wish) for wish in wishes], device=accelerator.device)
    return (accelerator.reduce(told) > 0).tolist()


@contextlib.contextmanager
def left_together(accelerator: Accelerator) -> Iterator[None]:
    """All processes leave at once in an ending that they agreed on.

    A launcher kills the others once one has left, and the first process is then still saving its state or telling W&B.
    """
    try:
        yield
    except (Unfinished, Collapsed):
        accelerator.wait_for_everyone()
        raise


def each_share(count: int, processes: int, setting: str, things: str) -> int:
    """What each of several processes does of a step, so that a run is the same on any number of GPUs.

    Args:
        count: of the whole step.
        processes: of the job, one per GPU.
        setting: that says how many.
        things: what they are.

    Raises:
        InputError: they cannot be shared out evenly.
    """
    if count % processes:
        raise InputError(
            f"{setting} is {count}, and {processes} processes cannot share that many {things} evenly; set it to a multiple of "
            f"{processes}, or use another number of GPUs."
        )
    return count // processes


@dataclass(frozen=True)
class Tail:
    """What follows each optimiser step.

    Attributes:
        state: where states are saved.
        stop: whether the job has been asked to end.
        until: last step.
        every: steps between saved states.
        snapshot: makes the state to be saved.
        remedy: what to change when numbers are not finite.
    """

    state: TrainingState
    stop: StopRequest
    until: int
    every: int
    snapshot: Callable[[], dict[str, Any]]
    remedy: str

    @property
    def folder(self) -> Path:
        """The stage's state folder."""
        return self.state.folder.parent

    def require_finite(self, step: int, loss: float, gradient_norm: float) -> None:
        """To be asked before the weights are touched: an update with NaN cannot be taken back, and a save would keep it.

        Args:
            step: steps done, this one included.
            loss, gradient_norm: of this step.

        Raises:
            FloatingPointError: one of them is NaN or infinite.
        """
        if not (math.isfinite(loss) and math.isfinite(gradient_norm)):
            raise FloatingPointError(
                f"The training loss is {loss} and the gradient's norm {gradient_norm} at step {step}; the weights were not "
                f"updated and nothing is saved. The last good state is kept in {self.folder}; {self.remedy}."
            )

    def save_if_due(self, step: int, stopping: bool) -> None:
        """Save at regular steps, by the clock, at the end, and before stopping."""
        if step % self.every == 0 or step == self.until or self.state.due or stopping:
            self.state.save(step, self.snapshot())
            self.stop.reserve = SAVING_MARGIN * self.state.save_took

    def leave_if_stopping(self, step: int, stopping: bool, time_spent: bool) -> None:
        """End the loop in good order; the state has been saved.

        Args:
            step: steps done.
            stopping: whether to leave.
            time_spent: whether any process's budget is the reason.

        Raises:
            Unfinished: before the last step.
        """
        if stopping and step < self.until:
            reason = self.stop.reason or "another process asked for it"
            ending = TimeSpent if time_spent else Unfinished
            raise ending(f"Stopped at step {step} of {self.until} ({reason}); the state is saved, run again to go on.")
