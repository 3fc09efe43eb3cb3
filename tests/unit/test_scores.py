"""Scores of drawn views: trivial pictures score as trivial, and the input's own slot is never scored."""

from __future__ import annotations

import torch

from mvfl.records.manifest import Manifest
from mvfl.verdict.baselines import baselines
from mvfl.verdict.scores import Truth, copy_score, score_views, slot_assignment


def test_perfect_views_score_perfectly(tiny_truth: Truth) -> None:
    scores = score_views(tiny_truth.images, tiny_truth)
    assert scores["psnr"].min() > 60 and scores["ssim"].min() > 0.999 and scores["iou"].min() == 1
    assert slot_assignment(tiny_truth.images, tiny_truth).all()
    assert copy_score(tiny_truth.images, tiny_truth).abs().max() < 1e-6


def test_a_blank_picture_gains_nothing_from_the_background(tiny_truth: Truth) -> None:
    blank = torch.ones_like(tiny_truth.images)
    assert score_views(blank, tiny_truth)["psnr"].median() < 12
    assert score_views(blank, tiny_truth)["iou"].max() == 0


def test_copies_of_the_input_are_seen_as_copies(tiny_truth: Truth) -> None:
    copies = tiny_truth.inputs[:, None].expand_as(tiny_truth.images)
    assert copy_score(copies, tiny_truth)[tiny_truth.scored].mean() > 0.2
    assert not slot_assignment(copies, tiny_truth)[tiny_truth.scored].any()


def test_turned_views_are_assigned_to_the_wrong_slots(tiny_truth: Truth) -> None:
    assert slot_assignment(tiny_truth.images.roll(2, 1), tiny_truth).float().mean() < 0.2


def test_baselines_need_no_model_and_have_the_right_shape(tiny_manifest: Manifest, tiny_truth: Truth) -> None:
    tables = baselines(tiny_manifest, tiny_truth, "relative_pose")
    assert set(tables) == {"blank", "copy", "mean", "nearest"}
    assert all(t.shape == tiny_truth.images.shape for t in tables.values())


def test_the_reference_slot_is_never_scored(tiny_truth: Truth) -> None:
    assert tiny_truth.reference_slots == [0, 0, 0, 0]
    assert tiny_truth.scored.sum() == 4 * 5
    assert tiny_truth.views[1][0] == 3
