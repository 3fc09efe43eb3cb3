"""The pictures of each training step: which samples, which of their views; from (seed, step, place in the batch) alone."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType

import numpy as np
import torch

from mvfl.config.gslrm import GslrmFinetuning
from mvfl.gslrm.unseen import chosen_inputs
from mvfl.gslrm.view_choice import choose_views
from mvfl.gslrm.views import Views, load_views
from mvfl.records.manifest import Manifest
from mvfl.runtime.files import InputError
from mvfl.runtime.loop import each_share
from mvfl.runtime.randomness import batch_indices, derived_seed, drawn_part

Pair = tuple[Views, Views]


@dataclass(frozen=True)
class Supervised:
    """One data set that GS-LRM learns from.

    Attributes:
        inputs: data set whose views the network sees.
        targets: data set that supervises.
        pairs: input sample name -> target sample name, for the training split.
        references: input sample name -> the view that its other views were drawn of; none for recorded inputs.
    """

    inputs: Manifest
    targets: Manifest
    pairs: dict[str, str]
    references: dict[str, int] = field(default_factory=dict)

    @property
    def same(self) -> bool:
        """Whether inputs and targets are views of the same samples."""
        return self.inputs.data_hash == self.targets.data_hash

    def require_match(self, settings: GslrmFinetuning) -> None:
        """Whether pictures and cameras belong together.

        Raises:
            InputError: they do not.
        """
        if self.inputs.rig.hash != self.targets.rig.hash:
            raise InputError(
                f"Rig of {self.inputs.name} ({self.inputs.rig.hash}) and of {self.targets.name} ({self.targets.rig.hash}) differ: "
                "pictures and cameras would not match. Generate the synthetic views again from a model trained on this rig."
            )
        if settings.view_choice != "first" and not self.same:
            raise InputError(
                f"gslrm.view_choice '{settings.view_choice}' draws inputs and targets from the same sample; generated views have "
                "their own inputs, so use 'first' with them."
            )


class Batches:
    """Inputs and targets of each step; a context manager for its threads.

    Args:
        settings: batch size, views, seed.
        parts: what to learn from; a step shows one of them, so that all its objects have equally many views.
        share: which of how many processes this is; each gets its share of every step's objects.

    Raises:
        InputError: the data sets do not belong together, or a step's objects cannot be shared out.
    """

    def __init__(self, settings: GslrmFinetuning, parts: Sequence[Supervised], share: tuple[int, int] = (0, 1)) -> None:
        for part in parts:
            part.require_match(settings)
        self.objects = each_share(settings.batch_size, share[1], "gslrm.batch_size", "objects")
        self.settings, self.parts, self.rank = settings, parts, share[0]
        self.image_size, self.names = parts[0].inputs.image_size, [sorted(part.pairs) for part in parts]
        self.drawn_per_step = settings.view_choice != "first"
        views = max(len(p.targets.sample(next(iter(p.pairs.values()))).files) + p.inputs.views for p in parts)
        cached = functools.lru_cache(maxsize=int(settings.cache_gigabytes * 2**30 / (16 * self.image_size**2 * views)))
        self._views: Callable[[int, str], Pair] = cached(self._read)
        self.readers = ThreadPoolExecutor(8)

    def __enter__(self) -> Batches:
        return self

    def __exit__(self, _k: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None) -> None:
        self.readers.shutdown(cancel_futures=True)

    def _read(self, number: int, name: str) -> Pair:
        s, part = self.settings, self.parts[number]
        target, eight_bit = part.pairs[name], s.compositing == "8bit"
        wanted = load_views(part.targets, target, eight_bit=eight_bit)
        if part.same and target == name:
            seen = wanted if self.drawn_per_step else wanted.select(slice(part.inputs.views))
        else:
            seen = load_views(part.inputs, name, all_views=self.drawn_per_step, eight_bit=eight_bit)
        if self.drawn_per_step:
            return seen, wanted
        return seen.select(chosen_inputs(len(seen.images), s.input_views, part.references.get(name))), wanted

    def _left_out(self, pair: Pair, step: int) -> Pair:
        """Without a spare camera, one of the inputs is left out of each step, so that an unseen one supervises it."""
        seen, wanted = pair
        inputs = len(seen.images)
        if len(wanted.images) > inputs or inputs < 2:
            return pair
        camera = int(np.random.default_rng([self.settings.seed, step, 3]).integers(inputs))
        return seen.select([v for v in range(inputs) if v != camera]), wanted

    def _shown(self, pair: Pair, step: int, place: int) -> Pair:
        """Which of an object's views this step shows, and which supervise it."""
        s = self.settings
        if self.drawn_per_step:
            return drawn_views(pair[1], s, random.Random(derived_seed(s.seed, step, place)))
        seen, wanted = self._left_out(pair, step)
        if s.target_views is None:
            return seen, wanted
        order = np.random.default_rng([s.seed, step, 2, place]).permutation(len(wanted.images))
        return seen, wanted.select(sorted(order[: s.target_views].tolist()))

    def at(self, step: int) -> Pair:
        """This process's inputs and targets of a step, stacked; in pinned memory where there is a GPU."""
        s, rank = self.settings, self.rank
        number = drawn_part([len(names) for names in self.names], step, s.seed)
        names = self.names[number]
        drawn = batch_indices(len(names), s.batch_size, step, s.seed)
        places = range(rank * self.objects, (rank + 1) * self.objects)
        pairs = self.readers.map(lambda place: self._views(number, names[drawn[place]]), places)
        chosen = [self._shown(pair, step, place) for place, pair in zip(places, pairs, strict=True)]
        seen, wanted = (Views.stacked([pair[i] for pair in chosen]) for i in (0, 1))
        return (seen.pinned(), wanted.pinned()) if torch.cuda.is_available() else (seen, wanted)


def drawn_views(views: Views, settings: GslrmFinetuning, draws: random.Random) -> Pair:
    """Inputs, and targets (inputs included), of one object, drawn as published."""
    count = min(settings.target_views or len(views.images), len(views.images))
    positions = views.c2w[:, :3, 3].cpu().numpy()
    choice = choose_views(positions, count, settings.input_views or count, settings.view_choice == "overlap", True, draws)
    return views.select(choice.inputs), views.select([*choice.inputs, *choice.targets])
