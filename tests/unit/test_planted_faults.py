"""Faults planted into recordings of a walking animal are refused or named; correct recordings of all kinds are not refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from recordings import Seen, changed_masks, film, shaken, turned

from mvfl.config.datasets import MarkerlessDataset
from mvfl.data.alignment import Misfit
from mvfl.data.calibration import _refuse_copies
from mvfl.data.evidence import culprit, judge_late_views, judge_order, odd_moments, twins
from mvfl.data.recording import judge
from mvfl.geometry.cameras import CameraError
from mvfl.runtime.files import InputError

FRAMES = 100
SETTINGS = MarkerlessDataset.model_validate({"kind": "markerless", "calibration": "c.json", "videos": "{camera}.mp4"})


@pytest.fixture(scope="module")
def six() -> Seen:
    return film(11, 6, FRAMES)


def misfits(seen: Seen) -> list[Misfit]:
    return judge(SETTINGS, seen.cameras, seen.located())[1]


def named(seen: Seen) -> list[tuple[int, str]]:
    return [(m.view, m.kind) for m in misfits(seen) if m.kind]


def swapped(seen: Seen, a: int, b: int) -> Seen:
    order = list(range(len(seen.cameras)))
    order[a], order[b] = b, a
    return seen.showing(order)


ORDERS: dict[str, tuple[Callable[[Seen], Seen], str]] = {
    "two neighbours swapped": (lambda s: swapped(s, 2, 3), "cam2 and cam3 are swapped"),
    "two opposite ones swapped": (lambda s: swapped(s, 1, 4), "cam1 and cam4 are swapped"),
    "all shifted by one": (lambda s: s.showing([1, 2, 3, 4, 5, 0]), "places too late in the order"),
    "all turned by 180 degrees": (
        lambda s: Seen(s.cameras, [[x.turned() for x in f] for f in s.frames]), "turned by 180 degrees",
    ),
    "all mirrored": (lambda s: Seen(s.cameras, [[x.mirrored() for x in f] for f in s.frames]), "mirrored"),
}  # fmt: skip


@pytest.mark.parametrize("fault", ORDERS)
def test_a_wrong_order_of_pictures_is_refused_and_named(fault: str, six: Seen) -> None:
    change, sentence = ORDERS[fault]
    with pytest.raises(InputError, match=sentence):
        judge_order(change(six).moments(), "videos")


def test_the_given_order_wins_by_a_margin_and_nothing_is_named(six: Seen) -> None:
    order, fits = judge(SETTINGS, six.cameras, six.located())
    assert order is not None and order.overlap > order.nearest + 0.05 and not order.undecided
    assert len(fits) == 6 and not any(m.kind for m in fits)


@pytest.mark.parametrize("seed", range(3))
def test_one_degree_in_one_camera_is_named(seed: int, six: Seen) -> None:
    rng = np.random.default_rng(seed)
    view, axis = int(rng.integers(6)), rng.normal(size=3)
    assert named(six.with_camera(view, turned(six.cameras[view].camera, 1.0, axis))) == [(view, "rotation")]


def test_a_wrong_focal_length_is_named(six: Seen) -> None:
    camera = six.cameras[4].camera
    assert named(six.with_camera(4, replace(camera, fx=1.1 * camera.fx, fy=1.1 * camera.fy))) == [(4, "focal")]


def test_a_camera_that_is_a_frame_late_is_named(six: Seen) -> None:
    frames = [[*now[:2], before[2], *now[3:]] for before, now in pairwise(six.frames)]
    (found,) = [m for m in misfits(Seen(six.cameras, frames)) if m.kind]
    assert (found.view, found.kind) == (2, "delay") and found.delay == pytest.approx(1, abs=0.3)


def test_an_animal_that_sits_still_tells_nothing_and_nobody_is_blamed(six: Seen) -> None:
    assert misfits(Seen(six.cameras, [six.frames[0]] * FRAMES)) == []


def test_without_the_camera_to_blame_all_others_agree(six: Seen) -> None:
    wrong = six.with_camera(3, turned(six.cameras[3].camera, 8.0, np.array([0.0, 1, 0])))
    found = culprit(wrong.moments())
    assert found is not None and found[0] == "cam3" and found[1] > found[2] + 0.05


def test_views_of_another_time_are_found_in_their_sample(six: Seen) -> None:
    frames = [list(f) for f in six.frames[:30]]
    frames[17][1:4] = six.frames[60][1:4]
    moments = Seen(six.cameras, frames).moments()
    sentence = odd_moments(moments, [m.overlap() for m in moments])
    assert sentence is not None and "1 of 30 samples" in sentence and "frame 17" in sentence
    right = six.moments()[:30]
    assert odd_moments(right, [m.overlap() for m in right]) is None


def test_a_view_that_is_late_by_a_sample_is_refused(six: Seen) -> None:
    """Samples lie some frames apart: the animal has moved between them."""
    apart = [six.frames[i] for i in range(0, FRAMES, 4)]
    late = [[*now[:5], before[5]] for before, now in pairwise(apart)]
    with pytest.raises(InputError, match="cam5 is late by a sample"):
        judge_late_views(Seen(six.cameras, late).moments(), "samples")
    judge_late_views(Seen(six.cameras, apart).moments(), "samples")


def test_one_picture_in_place_of_two_is_seen(six: Seen) -> None:
    assert twins(six.frames[0]) is None
    assert twins([*six.frames[0][:4], six.frames[0][1], six.frames[0][5]]) == (1, 4)


def test_a_camera_that_is_a_copy_of_another_is_named(six: Seen) -> None:
    copied = six.with_camera(5, six.cameras[2].camera)
    with pytest.raises(CameraError, match="camera cam5 stands where camera cam2 stands"):
        _refuse_copies(SETTINGS.calibration, copied.cameras)
    _refuse_copies(SETTINGS.calibration, six.cameras)


def test_a_uniform_ring_that_was_shifted_by_one_cannot_be_told_and_that_is_said(six: Seen) -> None:
    """One moment of an animal in the middle, and its rig turned: the same silhouettes."""
    from mvfl.data.rodent.sampling import make_sample
    from mvfl.data.silhouettes import Silhouette
    from mvfl.geometry.lens import LensCamera
    from mvfl.geometry.rig import load_rig

    rig = load_rig("ring60", 128).cameras
    frames = []
    for i in range(8):
        drawn = make_sample((5, i), rig, fill=0.6, supersample=1)
        frames.append([Silhouette.of(np.ascontiguousarray(p[..., 3] > 127)) for p in drawn.pictures])
    ring = Seen([LensCamera(f"cam{i}", c) for i, c in enumerate(rig)], frames)
    finding = judge_order(ring.moments(), "videos")
    assert any("1 places too late" in sentence for sentence in finding.undecided)
    assert not any("swapped" in sentence for sentence in finding.undecided)


@pytest.mark.parametrize("views", [[0, 2, 4], [0, 1, 3, 5], [0, 1, 2, 3, 4, 5]], ids=["3", "4", "6"])
@pytest.mark.parametrize("masks", ["no tail", "soft", "nibbled"])
def test_correct_recordings_with_imperfect_masks_and_calibrations_are_not_refused(views: list[int], masks: str, six: Seen) -> None:
    honest = shaken(changed_masks(six.only(views), masks, 3), 3.0, 4)
    order, _ = judge(SETTINGS, honest.cameras, Seen(honest.cameras, honest.frames[::4]).located())
    assert order is not None and order.overlap > SETTINGS.min_silhouette_overlap
