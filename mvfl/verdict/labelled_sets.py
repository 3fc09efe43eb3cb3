"""Labelled prediction sets for the verdict: made from recorded views so that the right case is known.

A: mild noise, blur or colour shift. B: the right direction in each slot, but every view from another pose, coat or
scale. C: noise, blank, copies of the input, another animal, slots shuffled or turned. D: one to three slots broken.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mvfl.config.strict import Case, Coat, Pose
from mvfl.data.pictures import composite, rgba_tensor
from mvfl.data.rodent.sampling import COAT_WEIGHTS, POSE_WEIGHTS, make_sample
from mvfl.geometry.rig import load_rig
from mvfl.verdict.scores import Truth

Views = Float[Tensor, "pair slot 3 height width"]


@dataclass(frozen=True)
class LabelledSet:
    """One prediction set.

    Attributes:
        case: the right answer.
        kind: how it was made, with its strength.
        images: predictions in slot order.
    """

    case: Case
    kind: str
    images: Views


@dataclass(frozen=True)
class World:
    """Pictures that the sets are made from.

    Attributes:
        truth: recorded views.
        alike: other animals with the same heading, by what differs ("pose" or "coat") [variant, pair, slot, ...].
        others: unrelated animals.
        mean: mean view per slot, as a baseline.
    """

    truth: Truth
    alike: dict[str, Float[Tensor, "variant pair slot 3 height width"]]
    others: Views
    mean: Views


def make_world(size: int, pairs: int, seed: int, coats: list[Coat] | None = None, poses: list[Pose] | None = None) -> World:
    """Render the animals of one world on the uniform ring.

    Args:
        size: pixels.
        pairs: animals.
        seed: of everything.
        coats, poses: of the recorded animals; default: all.
    """
    kinds: dict[str, Any] = {k: v for k, v in (("coats", coats), ("poses", poses)) if v is not None}
    rig = load_rig("ring60", size)
    order = rig.slot_order(0)

    def animal(*key: int, **options: Any) -> tuple[Tensor, Tensor, dict[str, Any]]:
        sample = make_sample((seed, *key), rig.cameras, fill=0.75, **options)
        rgba = rgba_tensor(list(sample.pictures))[order]
        return composite(rgba, 1.0), rgba[:, 3:], sample.meta

    images, alphas, metas = zip(*(animal(0, i, **kinds) for i in range(pairs)), strict=True)
    alike: dict[str, list[Tensor]] = {"pose": [], "coat": []}
    for variant in range(3):
        other_pose, other_coat = [], []
        for i, meta in enumerate(metas):
            other_poses = [p for p in (poses or POSE_WEIGHTS) if p != meta["pose"]]
            other_coats = [c for c in (coats or COAT_WEIGHTS) if c != meta["coat"]]
            heading = meta["yaw_deg"]
            pose = [other_poses[(variant * 2 + i) % len(other_poses)]]
            other_pose.append(animal(1, i, variant, yaw=heading, coats=[meta["coat"]], poses=pose)[0])
            other_coat.append(animal(0, i, yaw=heading, coats=[other_coats[variant % len(other_coats)]], poses=[meta["pose"]])[0])
        alike["pose"].append(torch.stack(other_pose))
        alike["coat"].append(torch.stack(other_coat))
    others = torch.stack([animal(2, i, **kinds)[0] for i in range(pairs)])
    pool = torch.stack([animal(3, i, **kinds)[0] for i in range(12)])
    truth = Truth(
        [f"animal_{i}" for i in range(pairs)], [0] * pairs, torch.stack(images), torch.stack(alphas),
        torch.stack(images)[:, 0], [order] * pairs, [rig.cameras] * pairs,
    )  # fmt: skip
    return World(truth, {k: torch.stack(v) for k, v in alike.items()}, others, pool.mean(0).expand_as(truth.images).contiguous())


def _blurred(images: Views, sigma: float) -> Views:
    radius = max(1, round(3 * sigma))
    x = torch.arange(-radius, radius + 1).float()
    kernel = torch.exp(-(x**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
    flat = images.reshape(-1, 1, *images.shape[-2:])
    for k, pad in ((kernel, (radius, radius, 0, 0)), (kernel.transpose(2, 3), (0, 0, radius, radius))):
        flat = F.conv2d(F.pad(flat, pad, mode="replicate"), k)
    return flat.reshape(images.shape)


def _zoomed(image: Float[Tensor, "3 height width"], factor: float) -> Float[Tensor, "3 height width"]:
    theta = torch.tensor([[[1 / factor, 0, 0], [0, 1 / factor, 0]]])
    grid = F.affine_grid(theta, [1, *image.shape], align_corners=False)
    return 1 - F.grid_sample(1 - image[None], grid, align_corners=False)[0]


def labelled_sets(world: World, seed: int) -> Iterator[LabelledSet]:
    """All sets of a world; several strengths of each kind."""
    g, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    yield from _good_sets(world, g)
    yield from _slow_sets(world, g, rng)
    yield from _failed_sets(world, g, rng)
    yield from _partial_sets(world, g, rng)


def _noisy(images: Views, sigma: float, g: torch.Generator) -> Views:
    return (images + sigma * torch.randn(images.shape, generator=g)).clamp(0, 1)


def _good_sets(world: World, g: torch.Generator) -> Iterator[LabelledSet]:
    true = world.truth.images
    for sigma in (0.005, 0.01, 0.015):
        yield LabelledSet("A", f"noise {sigma}", _noisy(true, sigma, g))
    for sigma in (0.4, 0.6, 0.8):
        yield LabelledSet("A", f"blur {sigma}", _blurred(true, sigma))
    for shift in (-0.05, 0.05):
        tone = torch.where(true < 0.94, (true + shift).clamp(0, 1), true)
        yield LabelledSet("A", f"colour {shift}", tone)
    yield LabelledSet("A", "noise and blur", _noisy(_blurred(true, 0.5), 0.008, g))


def _slow_sets(world: World, g: torch.Generator, rng: np.random.Generator) -> Iterator[LabelledSet]:
    true = world.truth.images
    slots = true.shape[1]
    for what, variants in world.alike.items():
        mixed = true.clone()
        for slot in range(1, slots):
            mixed[:, slot] = variants[(slot - 1) % 3][:, slot]
        if what == "pose":
            yield LabelledSet("B", "every view in another pose", mixed)
            yield LabelledSet("B", "every view in another pose, soft", _blurred(mixed, 0.8))
        both = mixed.clone()
        for pair, slot in itertools.product(range(len(both)), range(1, slots)):
            both[pair, slot] = _zoomed(both[pair, slot], float(rng.uniform(0.7, 0.85) if slot % 2 else rng.uniform(1.15, 1.25)))
        yield LabelledSet("B", f"every view in another {what} and scale", both)
        yield LabelledSet("B", f"every view in another {what} and scale, noisy", _noisy(both, 0.01, g))


def _failed_sets(world: World, g: torch.Generator, rng: np.random.Generator) -> Iterator[LabelledSet]:
    true = world.truth.images
    slots = true.shape[1]
    yield LabelledSet("C", "noise", torch.rand(true.shape, generator=g))
    yield LabelledSet("C", "blank", torch.ones_like(true))
    yield LabelledSet("C", "grey", torch.full_like(true, 0.5))
    copies = true[:, :1].expand_as(true)
    yield LabelledSet("C", "copies of the input", copies.clone())
    yield LabelledSet("C", "copies of the input, noisy", _noisy(copies, 0.015, g))
    yield LabelledSet("C", "another animal", world.others)
    for turn in range(1, slots):
        yield LabelledSet("C", f"turned by {60 * turn} degrees", true.roll(turn, 1))
    shuffled = true.clone()
    for pair in range(len(true)):
        order = 1 + rng.permutation(slots - 1)
        while (order == np.arange(1, slots)).sum() > 1:
            order = 1 + rng.permutation(slots - 1)
        shuffled[pair, 1:] = true[pair, order.tolist()]
    yield LabelledSet("C", "slots shuffled", shuffled)
    yield LabelledSet("C", "slots shuffled, soft", _blurred(shuffled, 0.6))


def _partial_sets(world: World, g: torch.Generator, rng: np.random.Generator) -> Iterator[LabelledSet]:
    true = world.truth.images
    slots = true.shape[1]
    breaks: dict[str, Callable[[int], Tensor]] = {
        "blank": lambda s: torch.ones_like(true[:, s]),
        "noise": lambda s: torch.rand(true[:, s].shape, generator=g),
        "copy": lambda s: true[:, 0],
        "another animal": lambda s: world.others[:, s],
        "another view": lambda s: true[:, (s + 2) % slots],
    }
    for (name, broken), count in itertools.product(breaks.items(), (1, 2, 3)):
        part = _blurred(true, 0.4)
        for slot in (1 + rng.permutation(slots - 1)[:count]).tolist():
            part[:, slot] = broken(slot)
        yield LabelledSet("D", f"{count} slots: {name}", part)
