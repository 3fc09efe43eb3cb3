"""What a slot is told: its place relative to the reference, and pose columns that start at zero."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mvfl.config.experiment import ViewChoice
from mvfl.data.latents import LatentCache
from mvfl.geometry.rig import Rig, load_rig
from mvfl.mvdiffusion.conditioning import pose_features, slot_orders
from mvfl.mvdiffusion.pipeline import MultiViewPipeline
from mvfl.mvdiffusion.training import TrainingData, make_batch
from mvfl.mvdiffusion.unet import build_unet, with_view_conditioning
from mvfl.runtime.files import InputError


def places_of(rig: Rig) -> list[tuple[float, float, float]]:
    return [c.spherical for c in rig.cameras]


def features(name: str, reference: int) -> torch.Tensor:
    rig = load_rig(name)
    return pose_features(places_of(rig), rig.slot_order(reference))


def test_relative_slots_start_at_the_reference_and_absolute_ones_do_not() -> None:
    rig = load_rig("ring60")
    relative = slot_orders(rig, "relative_pose")
    assert relative[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert relative[2].tolist() == [2, 1, 0, 5, 4, 3]
    assert slot_orders(rig, "absolute_prompt")[4].tolist() == [0, 5, 4, 3, 2, 1]


def test_poses_of_a_symmetric_rig_are_the_same_for_every_reference_and_of_the_measured_rig_are_not() -> None:
    torch.testing.assert_close(features("ring60", 0), features("ring60", 4), atol=1e-5, rtol=0)
    assert float((features("markerless_mouse_1", 0) - features("markerless_mouse_1", 4)).abs().max()) > 0.1


@given(st.integers(0, 5), st.floats(-8, 8))
def test_a_slot_is_told_by_how_much_its_own_camera_is_turned(view: int, degrees: float) -> None:
    places = places_of(load_rig("ring60"))
    azimuth, elevation, distance = places[view]
    turned = [*places[:view], (azimuth + degrees, elevation, distance), *places[view + 1 :]]
    order = load_rig("ring60").slot_order(0)
    difference = (pose_features(turned, order) - pose_features(places, order))[:, :2]  # cosine and sine of the azimuth
    moved = difference.abs().amax(1) > 1e-6
    told = [order[slot] for slot in moved.nonzero()[:, 0].tolist()]
    if abs(degrees) > 0.1:
        assert told == ([view] if view else [v for v in order if v != 0]), "of the input, all others are told"


def test_each_sample_of_a_batch_is_told_its_own_cameras() -> None:
    rig = load_rig("ring60")
    walked = [(a + 10, e, d * 1.1) for a, e, d in places_of(rig)[:1]] + places_of(rig)[1:]
    places = np.array([places_of(rig), walked])
    cache = LatentCache(np.zeros((2, 1, 6, 2, 1, 1), np.float16), np.zeros((2, 1, 6, 3), np.float32), places)
    data = TrainingData(cache, rig, torch.zeros(6, 1, 1))
    choice = ViewChoice(reference=2, view_conditioning="relative_pose")
    orders = slot_orders(rig, "relative_pose")
    batch = make_batch(data, choice, orders, np.array([1, 0]), [0], 1.0, torch.device("cpu"))
    wanted = torch.cat([pose_features(p, rig.slot_order(2)) for p in (walked, places_of(rig))])
    assert batch.poses is not None and torch.equal(batch.poses, wanted)
    assert not torch.equal(wanted[:6], wanted[6:])


@torch.no_grad()
def test_pose_columns_start_at_zero_so_that_step_0_equals_the_source(tiny_pipeline: MultiViewPipeline) -> None:
    config = {**tiny_pipeline.unet.config, "view_conditioning": "prompt", "projection_class_embeddings_input_dim": 128}
    source = build_unet(config).eval()
    wider = with_view_conditioning(source, "relative_pose").eval()
    assert source.config.view_conditioning == "prompt" and wider.config.view_conditioning == "relative_pose"
    x, t = torch.randn(6, 8, 16, 16), torch.tensor(500)
    text, labels = torch.randn(6, 77, 64), torch.randn(6, 128)
    poses = features("ring60", 0)
    before = source(x, t, encoder_hidden_states=text, class_labels=labels).sample
    after = wider(x, t, encoder_hidden_states=text, class_labels=torch.cat([labels, poses], 1)).sample
    torch.testing.assert_close(after, before, atol=2e-5, rtol=0)  # a wider matrix product rounds otherwise
    with pytest.raises(InputError, match="leave its pose columns unfed"):
        with_view_conditioning(wider, "prompt")
