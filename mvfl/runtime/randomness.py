"""Stateless randomness: what step s draws depends on (seed, s, ...) alone, so resuming is exact."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch


def derived_seed(*parts: int) -> int:
    """One 63-bit seed from several integers, well mixed and stable across platforms."""
    words = np.random.SeedSequence([p & 0xFFFFFFFF for p in parts]).generate_state(2, np.uint64)
    return int(words[0] >> np.uint64(1))


def generator(device: torch.device | str, *parts: int) -> torch.Generator:
    """A torch generator on `device` for the given integers."""
    return torch.Generator(device=device).manual_seed(derived_seed(*parts))


def drawn_part(sizes: Sequence[int], turn: int, seed: int) -> int:
    """Which of several data sets a pass shows: each as often as it has samples.

    Args:
        sizes: samples of each.
        turn: number of the pass, over all steps, processes and passes of a step.
        seed: of the run.
    """
    weights = np.array(sizes)
    return int(np.random.default_rng([seed, turn, 0x9A47]).choice(len(weights), p=weights / weights.sum()))


def batch_indices(count: int, batch: int, step: int, seed: int) -> np.ndarray:
    """Sample indices of optimiser step `step` (from 0): consecutive pieces of one shuffle per pass over the data.

    Args:
        count: samples in the data set.
        batch: samples per step, over all processes.
        step: optimiser step.
        seed: of the run.

    Returns:
        int64 [batch]; may repeat when the batch is larger than the data set.
    """
    positions = np.arange(step * batch, (step + 1) * batch)
    out = np.empty(batch, np.int64)
    for epoch in np.unique(positions // count):
        order = np.random.default_rng([seed, int(epoch), 0x5EED]).permutation(count)
        here = positions // count == epoch
        out[here] = order[positions[here] % count]
    return out
