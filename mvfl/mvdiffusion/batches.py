"""The batches of each training step: which samples of which data set, which of their views; from (seed, step, index) alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from mvfl.config.experiment import TrainingRun
from mvfl.data.latents import LatentCache
from mvfl.geometry.rig import Rig
from mvfl.mvdiffusion.objective import Batch
from mvfl.mvdiffusion.slots import tell
from mvfl.runtime.randomness import batch_indices, drawn_part


@dataclass(frozen=True)
class Recorded:
    """One data set that a segment learns from.

    Attributes:
        cache: latents of the training split.
        rig: names the order of the slots; what they are told are the samples' own cameras.
        orders: view index per (reference, slot).
    """

    cache: LatentCache
    rig: Rig
    orders: Int[np.ndarray, "reference slot"]

    def views_shown(self, most: int | None) -> int:
        """Slots of an object in one pass."""
        return min(len(self.rig.cameras), most or len(self.rig.cameras))


@dataclass(frozen=True)
class TrainingData:
    """What a segment learns from.

    Attributes:
        parts: data sets; a pass shows one of them, so that all its objects have equally many views.
        prompts: text embedding per word [word, token, width].
    """

    parts: list[Recorded]
    prompts: Tensor

    def draw(self, seed: int, turn: int, objects: int) -> tuple[Recorded, Int[np.ndarray, " object"]]:
        """The part and the samples of one pass: parts as often as they have samples, each in shuffles of its own.

        Args:
            seed: of the run.
            turn: number of the pass, over all steps, processes and passes of a step.
            objects: of the pass.
        """
        part = self.parts[drawn_part([len(part.cache) for part in self.parts], turn, seed)]
        return part, batch_indices(len(part.cache), objects, turn, seed)


def drawn_slots(
    slots: Int[np.ndarray, "object slot"], references: Int[np.ndarray, " object"], most: int | None, rng: np.random.Generator
) -> Int[np.ndarray, "object shown"]:
    """The slots of each object that a step shows: all; or, of many, the reference's and others drawn anew at each step."""
    if most is None or most >= slots.shape[1]:
        return slots
    rows = []
    for order, reference in zip(slots, references, strict=True):
        others = rng.permutation(np.flatnonzero(order != reference))[: most - 1]
        rows.append(order[np.sort([*np.flatnonzero(order == reference), *others])])
    return np.array(rows)


def make_batch(
    part: Recorded, prompts: Tensor, choice: TrainingRun, samples: np.ndarray, draw_seed: list[int], scaling_factor: float,
    device: torch.device,
) -> Batch:  # fmt: skip
    """Collect cached latents in slot order for some samples; variant and reference are drawn from `draw_seed`.

    Args:
        part: what to learn from.
        prompts: text embedding per word [word, token, width].
        choice: reference, view conditioning and the most views of a step.
        samples: their numbers in the cache.
        draw_seed: decides variants and references.
        scaling_factor: of the latents.
        device: where the batch goes.
    """
    cache, rng = part.cache, np.random.default_rng(draw_seed)
    variants = rng.integers(cache.variants, size=len(samples))
    drawn = rng.integers(len(part.orders), size=len(samples))
    references = drawn if choice.reference == "random" else np.full(len(samples), choice.reference)
    slots = drawn_slots(part.orders[references], references, choice.training.views_per_step, rng)
    picked = cache.moments[samples[:, None], variants[:, None], slots]
    moments = torch.from_numpy(picked).to(device, non_blocking=True).float()
    seen = torch.from_numpy(cache.moments[samples, variants, references]).to(device).float()
    channels = seen.shape[1] // 2
    # Each slot is told the camera that took its own picture.
    told = [(np.asarray(cache.cameras[s]), order.tolist()) for s, order in zip(samples, slots, strict=True)]
    words, poses, rays = tell(choice.view_conditioning, part.rig, told, seen.shape[-1])
    return Batch(
        target_moments=moments.flatten(0, 1),
        reference_latents=seen[:, :channels] * scaling_factor,
        embeds=torch.from_numpy(cache.embeds[samples, variants, references]).to(device),
        prompts=prompts[words],
        poses=None if poses is None else poses.to(device),
        rays=None if rays is None else rays.to(device),
    )
