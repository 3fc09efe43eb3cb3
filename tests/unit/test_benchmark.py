"""The verdict is right on prediction sets whose case is known."""

from __future__ import annotations

import pytest

from mvfl.config.evaluation import Thresholds
from mvfl.verdict.benchmark import confusion, measured
from mvfl.verdict.labelled_sets import labelled_sets, make_world
from mvfl.verdict.network_sets import network_sets, network_world


def test_the_verdict_is_right_on_labelled_prediction_sets() -> None:
    world = make_world(48, 3, 900)
    table = confusion(measured(world, labelled_sets(world, 900)), Thresholds())
    assert table.sum() == 43
    assert table.trace() >= 0.9 * table.sum(), table
    assert table[2, 0] == 0, "a failed run was taken for a converged one"


@pytest.mark.slow
def test_networks_draw_labelled_sets_of_every_case() -> None:
    world = network_world(pairs=1, seed=901)
    rows = measured(world, network_sets(world, 901, steps=8, training_steps=2))
    assert {e.case for e, _ in rows} == {"A", "B", "C", "D"} and len(rows) == 11
    by_kind = {e.kind: m for e, m in rows}
    right, untrained = by_kind["network: drawn as trained"], by_kind["network: 0 training steps from nothing"]
    assert right.iou > untrained.iou and right.skill > untrained.skill
