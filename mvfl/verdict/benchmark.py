"""How often the verdict is right: labelled prediction sets, thresholds fitted on one half of them, reported on the other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mvfl.config.evaluation import Thresholds
from mvfl.config.strict import CASES
from mvfl.records.scores import Measurements
from mvfl.runtime.files import write_json
from mvfl.runtime.progress import tracked
from mvfl.verdict.decision import decide
from mvfl.verdict.labelled_sets import LabelledSet, World, labelled_sets, make_world
from mvfl.verdict.measurements import consistency_per_pair, measure
from mvfl.verdict.network_sets import network_sets, network_world

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
        network_worlds: worlds whose sets the embedded base samples; half of them are for fitting.
        out: JSON file.
    """
    halves: tuple[list[Row], list[Row]] = ([], [])
    for number in tracked(range(worlds), "constructed sets", worlds):
        world = make_world(size, pairs, seed + number)
        halves[number % 2].extend(measured(world, labelled_sets(world, seed + number)))
    for number in tracked(range(network_worlds), "sampled sets", network_worlds):
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
    by_networks = [
        {"half": half, "kind": e.kind, "right": e.case, **asdict(m)}
        for half, rows in zip(("fitted", "reported"), halves, strict=True)
        for e, m in rows
        if e.kind.startswith("network")
    ]
    result = {
        "sets": len(halves[0]) + len(halves[1]), "drawn_by_networks": len(by_networks), "reported_on": int(table.sum()),
        "cases": CASES, "confusion": table.tolist(), "accuracy": float(np.trace(table) / table.sum()),
        "a_given_to_c": int(table[2, 0]), "fitted": fitted.model_dump(), "confusion_with_defaults": default.tolist(),
        "accuracy_with_defaults": float(np.trace(default) / default.sum()), "wrong": wrong, "networks": by_networks,
    }  # fmt: skip
    if out is not None:
        write_json(out, result)
    return result
