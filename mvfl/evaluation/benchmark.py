"""Labelled prediction sets for the verdict: made from recorded views so that the right case is known.

A: mild noise, blur or colour shift. B: the right direction in each slot, but every view from another pose, coat or
scale. C: noise, blank, copies of the input, another animal, slots shuffled or turned. D: one to three slots broken.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mvfl.config.schema import Case, Coat, Pose, Thresholds
from mvfl.data.rodent.sampling import COAT_WEIGHTS, POSE_WEIGHTS, make_sample
from mvfl.data.samples import composite, rgba_tensor
from mvfl.evaluation.decision import Measurements, decide
from mvfl.evaluation.scoring import Truth
from mvfl.evaluation.stage import consistency_per_pair, measure
from mvfl.geometry.rig import load_rig
from mvfl.runtime.files import write_json
from mvfl.runtime.progress import tracked

CASES: tuple[Case, ...] = ("A", "B", "C", "D")
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
        torch.stack(images)[:, 0], [order] * pairs, rig,
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
    g = torch.Generator().manual_seed(seed)
    rng = np.random.default_rng(seed)
    true = world.truth.images
    slots = true.shape[1]

    def noisy(images: Views, sigma: float) -> Views:
        return (images + sigma * torch.randn(images.shape, generator=g)).clamp(0, 1)

    for sigma in (0.005, 0.01, 0.015):
        yield LabelledSet("A", f"noise {sigma}", noisy(true, sigma))
    for sigma in (0.4, 0.6, 0.8):
        yield LabelledSet("A", f"blur {sigma}", _blurred(true, sigma))
    for shift in (-0.05, 0.05):
        tone = torch.where(true < 0.94, (true + shift).clamp(0, 1), true)
        yield LabelledSet("A", f"colour {shift}", tone)
    yield LabelledSet("A", "noise and blur", noisy(_blurred(true, 0.5), 0.008))

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
        yield LabelledSet("B", f"every view in another {what} and scale, noisy", noisy(both, 0.01))

    yield LabelledSet("C", "noise", torch.rand(true.shape, generator=g))
    yield LabelledSet("C", "blank", torch.ones_like(true))
    yield LabelledSet("C", "grey", torch.full_like(true, 0.5))
    copies = true[:, :1].expand_as(true)
    yield LabelledSet("C", "copies of the input", copies.clone())
    yield LabelledSet("C", "copies of the input, noisy", noisy(copies, 0.015))
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


Row = tuple[LabelledSet, Measurements]


def measured(world: World, sets: Iterable[LabelledSet]) -> list[Row]:
    """Measure the sets of one world; the pictures are dropped to save memory."""
    truth = world.truth
    others = {
        "blank": torch.ones_like(truth.images), "copy": truth.inputs[:, None].expand_as(truth.images).contiguous(),
        "mean": world.mean,
    }  # fmt: skip
    recorded = consistency_per_pair(truth.images, truth)
    nothing = torch.empty(0, 0, 3, 0, 0)
    return [(LabelledSet(e.case, e.kind, nothing), measure(e.images, truth, others, "falling", recorded)[0]) for e in sets]


def confusion(rows: list[tuple[LabelledSet, Measurements]], thresholds: Thresholds) -> np.ndarray:
    """Counts [right case, decided case], cases in the order A, B, C, D."""
    table = np.zeros((4, 4), int)
    for entry, measurements in rows:
        table[CASES.index(entry.case), CASES.index(decide(measurements, thresholds).case)] += 1
    return table


def _cost(table: np.ndarray) -> float:
    """Wrong sets; an A given to a C counts a hundredfold."""
    return float(table.sum() - np.trace(table) + 100 * table[2, 0])


def fit_thresholds(rows: list[tuple[LabelledSet, Measurements]], start: Thresholds, passes: int = 2) -> Thresholds:
    """Coordinate descent over a grid per threshold; among equal costs the middle of the range is taken."""
    grids: dict[str, list[float]] = {
        "failed_slot_accuracy": [0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6],
        "min_slot_accuracy": [0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9],
        "max_copy_score": [0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5],
        "min_skill": [0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35],
        "failed_skill": [-1.0, -0.75, -0.5, -0.4, -0.3],
        "min_iou": [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85],
        "min_consistency": [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85],
    }
    best = start
    for _ in range(passes):
        for name, grid in grids.items():
            costs = [_cost(confusion(rows, best.model_copy(update={name: v}))) for v in grid]
            equal = [v for v, c in zip(grid, costs, strict=True) if c == min(costs)]
            best = best.model_copy(update={name: equal[len(equal) // 2]})
    return best


def run_benchmark(
    worlds: int, size: int, pairs: int, seed: int, network_worlds: int = 0, out: Path | None = None
) -> dict[str, Any]:
    """Fit on the even worlds, report on the odd ones.

    Args:
        worlds: of constructed sets; half of them are for fitting.
        size: pixels.
        pairs: animals per set.
        seed: of everything.
        network_worlds: worlds whose sets the embedded base draws; half of them are for fitting.
        out: JSON file.
    """
    from mvfl.evaluation.benchmark_networks import network_sets, network_world

    halves: tuple[list[Row], list[Row]] = ([], [])
    for number in tracked(range(worlds), "constructed sets", worlds):
        world = make_world(size, pairs, seed + number)
        halves[number % 2].extend(measured(world, labelled_sets(world, seed + number)))
    for number in tracked(range(network_worlds), "drawn sets", network_worlds):
        world = network_world(pairs, seed + 1000 + number)
        halves[number % 2].extend(measured(world, network_sets(world, seed + number)))
    fitted = fit_thresholds(halves[0], Thresholds())
    default = confusion(halves[1], Thresholds())
    table = confusion(halves[1], fitted)
    wrong = [
        {"kind": e.kind, "right": e.case, "decided": decide(m, fitted).case}
        for e, m in halves[1]
        if decide(m, fitted).case != e.case
    ]
    drawn = [
        {"half": half, "kind": e.kind, "right": e.case, **asdict(m)}
        for half, rows in zip(("fitted", "reported"), halves, strict=True)
        for e, m in rows
        if e.kind.startswith("network")
    ]
    result = {
        "sets": len(halves[0]) + len(halves[1]), "drawn_by_networks": len(drawn), "reported_on": int(table.sum()),
        "cases": CASES, "confusion": table.tolist(), "accuracy": float(np.trace(table) / table.sum()),
        "a_given_to_c": int(table[2, 0]), "fitted": fitted.model_dump(), "confusion_with_defaults": default.tolist(),
        "accuracy_with_defaults": float(np.trace(default) / default.sum()), "wrong": wrong, "networks": drawn,
    }  # fmt: skip
    if out is not None:
        write_json(out, result)
    return result
