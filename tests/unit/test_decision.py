"""The verdict A-D: each case is recognised and comes with its reason."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mvfl.config.evaluation import Thresholds, above_chance
from mvfl.config.experiment import Training
from mvfl.mvdiffusion.training import collapse_sign
from mvfl.records.manifest import Manifest
from mvfl.records.scores import Measurements
from mvfl.verdict.baselines import baselines
from mvfl.verdict.decision import decide
from mvfl.verdict.measurements import measure
from mvfl.verdict.scores import Truth, share

GOOD = {"slot_accuracy": 0.98, "iou": 0.8, "skill": 0.5}
BAD = {str(i): {"slot_accuracy": 0.2, "iou": 0.3, "skill": -0.5} for i in range(1, 6)}
BASE = Measurements(0.98, 0.0, 0.8, 0.5, 0.95, {str(i): dict(GOOD) for i in range(1, 6)}, "falling", 6)


@pytest.mark.parametrize(("views", "guessed"), [(2, 0.5), (3, 0.34), (6, 0.17), (12, 0.09)])
def test_guessed_directions_are_case_c_with_any_number_of_cameras(views: int, guessed: float) -> None:
    slots = {str(i): {**GOOD, "slot_accuracy": guessed} for i in range(1, views)}
    decision = decide(replace(BASE, slot_accuracy=guessed, slots=slots, views=views), Thresholds())
    assert decision.case == "C" and f"chance {1 / views:.0%}" in " ".join(decision.reasons)
    assert above_chance(0.3, 6) == 0.3 and above_chance(0.3, views) > guessed
    assert collapse_sign({"val/copy_score": 0.0, "val/slot_accuracy": guessed}, Training(), views)


@pytest.mark.parametrize(
    ("measurements", "case", "reason"),
    [
        (BASE, "A", "All 5 generated views are good"),
        (replace(BASE, slots={k: {**GOOD, "iou": 0.5} for k in BASE.slots}, iou=0.5), "B", "are not good enough yet"),
        (replace(BASE, consistency=0.3), "B", "consistency as one body 30%"),
        (replace(BASE, slot_accuracy=0.2, slots=BAD), "C", "Only 20% of the views show the direction of their slot (chance 17%"),
        (replace(BASE, copy_score=0.4, slots=BAD), "C", "resemble the input"),
        (replace(BASE, skill=-0.8, slots=BAD), "C", "worse than trivial pictures"),
        (replace(BASE, loss_state="broken"), "C", "NaN"),
        (replace(BASE, slots={**BASE.slots, "3": {**GOOD, "skill": 0.0}}), "D", "Not good enough: slots 3"),
        (
            replace(BASE, slot_accuracy=0.2, slots={**BASE.slots, **{k: {**GOOD, "iou": 0.1} for k in "123"}}),
            "D",
            "Good: slots 4, 5",
        ),
    ],
)
def test_each_case_is_decided_with_its_reason(measurements: Measurements, case: str, reason: str) -> None:
    decision = decide(measurements, Thresholds())
    assert decision.case == case
    assert reason in " ".join(decision.reasons)
    assert 1 <= decision.view_consistency <= 5 and 1 <= decision.gt_similarity <= 5


def test_a_share_is_compared_with_its_limit_to_the_bit() -> None:
    """In float32 6 of 20 are 0.3000000119."""
    right = torch.arange(20).view(4, 5) < 6
    assert share(right, torch.ones(4, 5, dtype=torch.bool)) == 0.3


def test_perfect_predictions_are_case_a_and_copies_are_case_c(tiny_manifest: Manifest, tiny_truth: Truth) -> None:
    truth, others = tiny_truth, baselines(tiny_manifest, tiny_truth, "relative_pose")
    assert decide(measure(truth.images, truth, others, "falling")[0], Thresholds()).case == "A"
    for pictures in (others["copy"], others["blank"], truth.images.roll(1, 1), torch.rand_like(truth.images)):
        assert decide(measure(pictures, truth, others, "falling")[0], Thresholds()).case == "C"
