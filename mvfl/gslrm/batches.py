"""The pictures of each training step: which samples, which of their views; from (seed, step) alone."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

import numpy as np
import torch

from mvfl.config.gslrm import GslrmFinetuning
from mvfl.gslrm.view_choice import choose_views
from mvfl.gslrm.views import Views, load_views
from mvfl.records.manifest import Manifest
from mvfl.runtime.files import InputError
from mvfl.runtime.randomness import batch_indices, derived_seed

Pair = tuple[Views, Views]


class Batches:
    """Inputs and targets of each step; a context manager for its threads.

    Args:
        settings: batch size, views, seed.
        inputs: data set whose views the network sees.
        targets: data set that supervises.
        pairs: input sample name -> target sample name, for the training split.

    Raises:
        InputError: the data sets do not belong together.
    """

    def __init__(self, settings: GslrmFinetuning, inputs: Manifest, targets: Manifest, pairs: dict[str, str]) -> None:
        if inputs.rig.hash != targets.rig.hash:
            raise InputError(
                f"Rig of {inputs.name} ({inputs.rig.hash}) and of {targets.name} ({targets.rig.hash}) differ: pictures and "
                "cameras would not match. Generate the synthetic views again from a model trained on this rig."
            )
        self.settings, self.inputs, self.targets, self.pairs = settings, inputs, targets, pairs
        self.image_size, self.names = inputs.image_size, sorted(pairs)
        self.same = inputs.data_hash == targets.data_hash
        self.drawn_per_step = settings.view_choice != "first"
        if self.drawn_per_step and not self.same:
            raise InputError(
                f"gslrm.view_choice '{settings.view_choice}' draws inputs and targets from the same sample; generated views have "
                "their own inputs, so use 'first' with them."
            )
        sample_bytes = 16 * targets.image_size**2 * (len(targets.sample(pairs[self.names[0]]).files) + inputs.views)
        cached = functools.lru_cache(maxsize=int(settings.cache_gigabytes * 2**30 / sample_bytes))
        self._views: Callable[[str], Pair] = cached(self._read)
        self.readers = ThreadPoolExecutor(8)

    def __enter__(self) -> Batches:
        return self

    def __exit__(self, _k: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None) -> None:
        self.readers.shutdown(cancel_futures=True)

    def _read(self, name: str) -> Pair:
        s, target = self.settings, self.pairs[name]
        eight_bit = s.compositing == "8bit"
        wanted = load_views(self.targets, target, eight_bit=eight_bit)
        if self.same and target == name:
            seen = wanted
        else:
            seen = load_views(self.inputs, name, all_views=self.drawn_per_step, eight_bit=eight_bit)
        return seen if self.drawn_per_step else seen.select(slice(s.input_views)), wanted

    def _left_out(self, pairs: list[Pair], step: int) -> list[Pair]:
        """Without a spare camera, one of the inputs is left out of each step, so that an unseen one supervises it."""
        inputs, recorded = len(pairs[0][0].images), len(pairs[0][1].images)
        if recorded > inputs or inputs < 2:
            return pairs
        camera = int(np.random.default_rng([self.settings.seed, step, 3]).integers(inputs))
        return [(seen.select([v for v in range(inputs) if v != camera]), wanted) for seen, wanted in pairs]

    def at(self, step: int) -> Pair:
        """Inputs and targets of a step, stacked; in pinned memory where there is a GPU."""
        s = self.settings
        drawn = batch_indices(len(self.names), s.batch_size, step, s.seed)
        chosen = list(self.readers.map(self._views, [self.names[i] for i in drawn]))
        if self.drawn_per_step:
            draws = random.Random(derived_seed(s.seed, step))
            chosen = [drawn_views(wanted, s, draws) for _, wanted in chosen]
        else:
            chosen = self._left_out(chosen, step)
        if not self.drawn_per_step and s.target_views is not None:
            rng = np.random.default_rng([s.seed, step, 2])
            chosen = [
                (seen, wanted.select(sorted(rng.permutation(len(wanted.images))[: s.target_views].tolist())))
                for seen, wanted in chosen
            ]
        seen, wanted = (Views.stacked([pair[i] for pair in chosen]) for i in (0, 1))
        return (seen.pinned(), wanted.pinned()) if torch.cuda.is_available() else (seen, wanted)


def drawn_views(views: Views, settings: GslrmFinetuning, draws: random.Random) -> Pair:
    """Inputs, and targets (inputs included), of one object, drawn as published."""
    count = settings.target_views or len(views.images)
    positions = views.c2w[:, :3, 3].cpu().numpy()
    choice = choose_views(positions, count, settings.input_views or count, settings.view_choice == "overlap", True, draws)
    return views.select(choice.inputs), views.select([*choice.inputs, *choice.targets])
