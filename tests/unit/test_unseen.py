"""GS-LRM is judged by cameras that no input had; what needs no network stands beside it; worse weights are not used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mvfl.config.agreement import gslrm_faults
from mvfl.config.gslrm import GslrmFinetuning
from mvfl.data.rodent.sampling import make_sample
from mvfl.geometry.cameras import orbit_camera
from mvfl.geometry.rig import load_rig
from mvfl.geometry.tensors import camera_tensors
from mvfl.gslrm.hull_baseline import hull_pictures
from mvfl.gslrm.scoring import pictures_without_model, score_pictures
from mvfl.gslrm.unseen import chosen_inputs, unseen_fold
from mvfl.gslrm.views import Views
from mvfl.records.scores import ReconstructionScore, ReconstructionScores
from mvfl.stages.gslrm import beats_base
from mvfl.stages.jobs import ZeroShotJob
from mvfl.stages.zero_shot import run


@given(st.integers(2, 8), st.integers(0, 3), st.none() | st.integers(2, 8), st.integers(0, 50), st.none() | st.integers(0, 7))
def test_no_camera_is_both_input_and_judge(views: int, spare: int, most: int | None, number: int, reference: int | None) -> None:
    reference = None if reference is None else reference % views
    fold = unseen_fold(views, views + spare, most, number, reference)
    assert fold.inputs and fold.targets and not set(fold.inputs) & set(fold.targets)
    assert reference not in fold.targets, "the picture that generated views were drawn from is no unseen one"
    assert not spare or fold.targets == list(range(views, views + spare)), "spare cameras judge where there are some"


def test_the_photograph_is_among_few_inputs_wherever_its_camera_stands() -> None:
    assert chosen_inputs(6, 4) == chosen_inputs(6, 4, 2) == [0, 1, 2, 3] and chosen_inputs(6, None, 5) == list(range(6))
    assert chosen_inputs(6, 4, 5) == [0, 1, 2, 5] and chosen_inputs(6, 1, 5) == [5]
    assert unseen_fold(6, 6, 4, 0, 5) == ([0, 1, 2, 5], [3, 4])


def test_without_a_spare_camera_each_one_is_left_out_in_turn() -> None:
    assert [unseen_fold(4, 4, None, n).targets for n in range(5)] == [[0], [1], [2], [3], [0]]
    with pytest.raises(ValueError, match="at least two"):
        unseen_fold(1, 1, None, 0)


def animal(cameras: int = 8) -> Views:
    rig = [orbit_camera(360 / cameras * i, 15 + 10 * (i % 3), size=96) for i in range(cameras)]
    drawn = make_sample((3, 1), rig, ["agouti"], ["walk"], 0.7, 0, 1)
    rgba = torch.from_numpy(drawn.pictures).permute(0, 3, 1, 2).float() / 255
    return Views(rgba[:, :3] * rgba[:, 3:] + 1 - rgba[:, 3:], rgba[:, 3:], *camera_tensors(rig))


def test_of_one_view_there_is_no_hull_to_compare_with() -> None:
    views = animal(3)
    assert "hull" not in pictures_without_model(views.select([0]), views.select([1, 2]))
    assert "hull" in pictures_without_model(views.select([0, 1]), views.select([2]))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"input_views": 1}, "leaves no camera of pair to judge"),
        ({"inputs": "real", "view_choice": "any", "input_views": 2, "target_views": 2}, "it must be larger than input_views"),
    ],
)
def test_views_that_leave_nothing_to_learn_or_judge_by_are_refused(settings: dict[str, object], sentence: str) -> None:
    assert any(sentence in fault for fault in gslrm_faults(GslrmFinetuning.model_validate(settings), "pair", 2))


def test_the_coloured_hull_is_a_3d_and_billboards_are_none() -> None:
    views = animal()
    inputs, unseen = views.select([0, 1, 2, 4, 5, 6, 7]), views.select([3])
    hull = score_pictures(hull_pictures(inputs, unseen), unseen)
    billboard = score_pictures(inputs.images[2:3], unseen)  # the input of the nearest camera, seen from the unseen one
    assert hull["mask_iou"] > 0.65 and hull["mask_iou"] > billboard["mask_iou"] + 0.1
    assert hull["foreground_psnr"] > billboard["foreground_psnr"] + 2


@pytest.mark.parametrize("apart", [180.0, 179.5, 176.0])
def test_cameras_that_face_each_other_have_a_hull_too(apart: float) -> None:
    """Their rays meet anywhere along a line: the body is looked for about the origin."""
    rig = [orbit_camera(azimuth, 0.0, size=96) for azimuth in (0.0, apart, 90.0)]
    for seed in range(6):
        drawn = make_sample((seed, 1), rig, ["agouti"], ["walk"], 0.7, 0, 1)
        rgba = torch.from_numpy(drawn.pictures).permute(0, 3, 1, 2).float() / 255
        views = Views(rgba[:, :3] * rgba[:, 3:] + 1 - rgba[:, 3:], rgba[:, 3:], *camera_tensors(rig))
        found = score_pictures(hull_pictures(views.select([0, 1]), views.select([2])), views.select([2]))
        assert found["mask_iou"] > 0.2, "two silhouettes from one line bound no length along it, but a body stands there"


def test_a_hull_of_nothing_is_blank() -> None:
    views = animal(3)
    nothing = Views(views.images, torch.zeros_like(views.alphas), views.c2w, views.intrinsics)
    assert bool((hull_pictures(nothing, views.select([0])) == 1).all())


def scores(psnr: float, iou: float) -> ReconstructionScores:
    base = {"foreground_psnr": 15.0, "foreground_ssim": 0.5, "mask_iou": 0.8}
    mine = {**base, "foreground_psnr": psnr, "mask_iou": iou}
    rows = [ReconstructionScore(sample=f"s{v}", targets=[v], scores=mine, others={"base": base}) for v in range(3)]
    return ReconstructionScores(mean=mine, baselines={"base": base}, samples=rows)


@pytest.mark.parametrize(
    ("psnr", "iou", "better"),
    [(15.5, 0.8, True), (15.0, 0.85, True), (14.0, 0.9, False), (16.0, 0.7, False), (14.9, 0.79, False), (15, 0.8, False)],
)
def test_weights_that_are_worse_on_unseen_cameras_do_not_pass_the_gate(psnr: float, iou: float, better: bool) -> None:
    assert beats_base(scores(psnr, iou)) is better


def test_scores_say_which_cameras_judged() -> None:
    assert "left out in turn" in scores(15, 0.8).judges and set(scores(15, 0.8).per_target()) == {"0", "1", "2"}


def test_a_zero_shot_test_leaves_page_scores_and_a_model(tiny_data: Path, tiny_base: Path, tmp_path: Path) -> None:
    job = ZeroShotJob.model_validate(
        {
            "gslrm": {"mixed_precision": "no", "turntable_views": 6},
            "samples": 2,
            "base": tiny_base,
            "manifest": tiny_data,
            "out": tmp_path,
        }
    )
    run(job)
    found = ReconstructionScores.read(tmp_path / "metrics.json")
    assert found.block == "val", "the data set has no test block"
    assert set(found.baselines) == {"blank", "copy", "mean", "hull"} and len(found.samples) == 2
    assert all(row.targets == [6] for row in found.samples), "the spare camera of the data set"
    text = (tmp_path / "index.html").read_text()
    assert "coloured visual hull" in text and (tmp_path / "gaussians.ply").is_file() and "https://" not in text
    assert np.isfinite(list(found.mean.values())).all() and load_rig("ring60").cameras
    single = job.model_copy(update={"gslrm": job.gslrm.model_copy(update={"input_views": 1}), "out": tmp_path / "single"})
    run(single)
    assert "One input alone has no visual hull" in (tmp_path / "single" / "index.html").read_text()
