"""Metrics and the decision: trivial pictures score as trivial, each case is recognised."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mvfl.config.schema import Thresholds
from mvfl.data.samples import Manifest
from mvfl.evaluation.decision import Measurements, decide
from mvfl.evaluation.metrics import foreground_psnr, foreground_ssim, mask_iou
from mvfl.evaluation.scoring import baselines, copy_score, load_truth, score_views, slot_assignment
from mvfl.evaluation.stage import measure
from mvfl.evaluation.trend import loss_trend


@pytest.fixture(scope="module")
def truth(tiny_manifest: Manifest):
    return load_truth(tiny_manifest, [(n, r) for n in tiny_manifest.val for r in (0, 3)], "relative_pose")


def test_perfect_views_score_perfectly(truth) -> None:
    scores = score_views(truth.images, truth)
    assert scores["psnr"].min() > 60 and scores["ssim"].min() > 0.999 and scores["iou"].min() == 1
    assert slot_assignment(truth.images, truth).all()
    assert copy_score(truth.images, truth).abs().max() < 1e-6


def test_a_blank_picture_gains_nothing_from_the_background(truth) -> None:
    blank = torch.ones_like(truth.images)
    assert score_views(blank, truth)["psnr"].median() < 12
    assert score_views(blank, truth)["iou"].max() == 0


def test_copies_of_the_input_are_seen_as_copies(truth) -> None:
    copies = truth.inputs[:, None].expand_as(truth.images)
    assert copy_score(copies, truth)[truth.scored].mean() > 0.2
    assert not slot_assignment(copies, truth)[truth.scored].any()


def test_turned_views_are_assigned_to_the_wrong_slots(truth) -> None:
    assert slot_assignment(truth.images.roll(2, 1), truth).float().mean() < 0.2


def test_baselines_need_no_model_and_have_the_right_shape(tiny_manifest: Manifest, truth) -> None:
    tables = baselines(tiny_manifest, truth, "relative_pose")
    assert set(tables) == {"blank", "copy", "mean", "nearest"}
    assert all(t.shape == truth.images.shape for t in tables.values())


def test_the_reference_slot_is_never_scored(truth) -> None:
    assert truth.reference_slots == [0, 0, 0, 0]
    assert truth.scored.sum() == 4 * 5
    assert truth.views[1][0] == 3


def test_metrics_fall_with_noise() -> None:
    torch.manual_seed(0)
    alpha = torch.zeros(1, 1, 48, 48)
    alpha[..., 12:36, 12:36] = 1
    image = torch.where(alpha.bool(), torch.rand(1, 3, 48, 48) * 0.5, torch.ones(1, 3, 48, 48))
    noisy = (image + 0.1 * torch.randn_like(image)).clamp(0, 1)
    worse = (image + 0.3 * torch.randn_like(image)).clamp(0, 1)
    for metric in (foreground_psnr, foreground_ssim):
        assert metric(image, image, alpha) > metric(noisy, image, alpha) > metric(worse, image, alpha)
    assert mask_iou(image, image) == 1


GOOD = {"slot_accuracy": 0.98, "iou": 0.8, "skill": 0.5}
BAD = {str(i): {"slot_accuracy": 0.2, "iou": 0.3, "skill": -0.5} for i in range(1, 6)}
BASE = Measurements(0.98, 0.0, 0.8, 0.5, 0.95, {str(i): dict(GOOD) for i in range(1, 6)}, "falling")


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


def test_perfect_predictions_are_case_a_and_copies_are_case_c(tiny_manifest: Manifest, truth) -> None:
    others = baselines(tiny_manifest, truth, "relative_pose")
    assert decide(measure(truth.images, truth, others, "falling")[0], Thresholds()).case == "A"
    for pictures in (others["copy"], others["blank"], truth.images.roll(1, 1), torch.rand_like(truth.images)):
        assert decide(measure(pictures, truth, others, "falling")[0], Thresholds()).case == "C"


@pytest.mark.parametrize(("slope", "state"), [(-1e-4, "falling"), (0.0, "plateau"), (1e-4, "rising")])
def test_the_loss_trend_has_a_direction(slope: float, state: str) -> None:
    g = torch.Generator().manual_seed(1)
    log = [{"step": s, "train/loss": 0.2 + slope * s + 0.004 * float(torch.randn((), generator=g))} for s in range(10, 1000, 10)]
    assert loss_trend(log).state == state


def test_a_nan_in_the_log_is_broken_and_an_outlier_is_not() -> None:
    log = [{"step": s, "train/loss": 0.3 - 1e-4 * s} for s in range(0, 1000, 10)]
    assert loss_trend([*log, {"step": 1000, "train/loss": None}]).state == "broken"
    log[50] = {"step": 500, "train/loss": 40.0}
    assert loss_trend(log).state == "falling"


def test_the_verdict_is_right_on_labelled_prediction_sets() -> None:
    from mvfl.evaluation.benchmark import confusion, labelled_sets, make_world, measured

    world = make_world(48, 3, 900)

    rows = measured(world, labelled_sets(world, 900))
    table = confusion(rows, Thresholds())
    assert table.sum() == 43
    assert table.trace() >= 0.9 * table.sum(), table
    assert table[2, 0] == 0, "a failed run was taken for a converged one"


def test_one_body_is_consistent_and_a_patchwork_is_not(truth, tiny_manifest: Manifest) -> None:
    from mvfl.evaluation.consistency import view_consistency

    cameras = [truth.rig.cameras[v] for v in truth.views[0]]
    real = view_consistency(truth.images[0], cameras)
    patchwork = truth.images[0].clone()
    patchwork[::2] = truth.images[2][::2]
    mixed = view_consistency(patchwork, cameras)
    assert real.hull_iou > 0.6 and real.colour > 0.7
    assert mixed.hull_iou < 0.9 * real.hull_iou


def test_a_loss_that_jumps_to_and_fro_is_oscillating() -> None:
    log = [{"step": s, "train/loss": 0.3 + 0.1 * (-1) ** (s // 10)} for s in range(10, 1000, 10)]
    assert loss_trend(log).state == "oscillating"


def test_lpips_needs_its_files_and_is_zero_for_equal_pictures(tmp_path) -> None:
    from mvfl.evaluation.lpips import TAPS, Lpips, load_lpips
    from mvfl.runtime.files import InputError

    torch.manual_seed(0)
    state = {k: torch.randn_like(v) * 0.05 for k, v in Lpips().state_dict().items() if k.startswith("features.")}
    torch.save({**state, "classifier.0.weight": torch.zeros(1)}, tmp_path / "vgg16.pth")
    widths = (64, 128, 256, 512, 512)
    torch.save({f"lin{i}.model.1.weight": torch.rand(1, widths[i], 1, 1) for i in range(len(TAPS))}, tmp_path / "vgg.pth")
    model = load_lpips(tmp_path / "vgg16.pth", tmp_path / "vgg.pth")
    image = torch.rand(2, 3, 32, 32)
    assert model(image, image).abs().max() == 0
    near, far = (model(image, (image + s * torch.randn_like(image)).clamp(0, 1)) for s in (0.05, 0.4))
    assert (near < far).all() and (near > 0).all()
    with pytest.raises(InputError, match="needs files that you bring"):
        load_lpips(tmp_path / "none.pth", tmp_path / "vgg.pth")
    with pytest.raises(InputError, match="is missing"):
        load_lpips(tmp_path / "vgg.pth", tmp_path / "vgg.pth")


@pytest.mark.slow
def test_networks_draw_labelled_sets_of_every_case() -> None:
    from mvfl.evaluation.benchmark import measured
    from mvfl.evaluation.benchmark_networks import network_sets, network_world

    world = network_world(pairs=1, seed=901)
    rows = measured(world, network_sets(world, 901, steps=8, training_steps=2))
    assert {e.case for e, _ in rows} == {"A", "B", "C", "D"} and len(rows) == 11
    by_kind = {e.kind: m for e, m in rows}
    right, untrained = by_kind["network: drawn as trained"], by_kind["network: 0 training steps from nothing"]
    assert right.iou > untrained.iou and right.skill > untrained.skill
