"""What a slot is told: its place relative to the reference, and pose columns that start at zero."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mvfl.config.experiment import Training, TrainingRun
from mvfl.config.strict import ViewConditioning
from mvfl.data.latents import LatentCache
from mvfl.geometry.cameras import camera_rows, orbit_camera
from mvfl.geometry.rig import Rig, load_rig
from mvfl.mvdiffusion.batches import Recorded, make_batch
from mvfl.mvdiffusion.conditioning import pluecker_rays, pose_features
from mvfl.mvdiffusion.pipeline import MultiViewPipeline
from mvfl.mvdiffusion.slots import slot_directions, slot_orders, slot_views, slot_words
from mvfl.mvdiffusion.unet import build_unet, widen_conv_in, with_view_conditioning, with_views
from mvfl.runtime.files import InputError


def turned(rig: Rig, view: int, degrees: float) -> np.ndarray:
    """The rig's cameras with one of them gone round the animal by some degrees."""
    cameras = list(rig.cameras)
    azimuth, elevation, distance = cameras[view].spherical
    cameras[view] = orbit_camera(azimuth + degrees, elevation, distance)
    return camera_rows(cameras)


def features(name: str, reference: int) -> torch.Tensor:
    rig = load_rig(name)
    return pose_features(camera_rows(rig.cameras), rig.slot_order(reference))


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
    rig = load_rig("ring60")
    order = rig.slot_order(0)
    before = pose_features(camera_rows(rig.cameras), order)
    difference = pose_features(turned(rig, view, degrees), order) - before
    told = [order[slot] for slot in (difference.abs().amax(1) > 1e-6).nonzero()[:, 0].tolist()]
    if abs(degrees) > 0.1:
        assert told == ([view] if view else [v for v in order if v != 0]), "of the input, all others are told"


def test_each_sample_of_a_batch_is_told_its_own_cameras() -> None:
    rig = load_rig("ring60")
    walked = turned(rig, 0, 10)
    rows = np.array([camera_rows(rig.cameras), walked])
    cache = LatentCache(np.zeros((2, 1, 6, 2, 1, 1), np.float16), np.zeros((2, 1, 6, 3), np.float32), rows)
    part = Recorded(cache, rig, slot_orders(rig, "rays"))
    choice = TrainingRun(reference=2, view_conditioning="rays", wandb_run="x")
    batch = make_batch(part, torch.zeros(6, 1, 1), choice, np.array([1, 0]), [0], 1.0, torch.device("cpu"))
    own = [walked, camera_rows(rig.cameras)]
    assert batch.poses is not None and torch.equal(batch.poses, torch.cat([pose_features(p, rig.slot_order(2)) for p in own]))
    assert batch.rays is not None and torch.equal(batch.rays, torch.cat([pluecker_rays(p, rig.slot_order(2), 1) for p in own]))
    assert not torch.equal(batch.poses[:6], batch.poses[6:]) and not torch.equal(batch.rays[:6], batch.rays[6:])


def test_of_many_views_a_step_shows_the_reference_and_some_others_in_slot_order() -> None:
    rig = Rig("many", [orbit_camera(15 * i, 20) for i in range(24)])
    cache = LatentCache(
        np.zeros((1, 1, 24, 2, 1, 1), np.float16), np.zeros((1, 1, 24, 3), np.float32), camera_rows(rig.cameras)[None]
    )
    part, prompts = Recorded(cache, rig, slot_orders(rig, "relative_pose")), torch.arange(6.0)[:, None, None]
    choice = TrainingRun(view_conditioning="relative_pose", wandb_run="x", training=Training(views_per_step=5))
    seen = set()
    for step in range(40):
        batch = make_batch(part, prompts, choice, np.array([0]), [step], 1.0, torch.device("cpu"))
        assert batch.poses is not None and len(batch.poses) == len(batch.prompts) == len(batch.target_moments) == 5
        turns = (-torch.atan2(batch.poses[:, 1], batch.poses[:, 0])).rad2deg().round() % 360
        assert turns[0] == 0 and turns.tolist() == sorted(turns.tolist())
        seen |= set(turns.tolist())
    assert len(seen) == 24, "over time, all of them"


@pytest.mark.parametrize("rig", ["facelift", "ring60"])
def test_on_the_published_layouts_slot_i_hears_word_i(rig: str) -> None:
    cameras = load_rig(rig)
    references = range(6) if rig == "ring60" else [0]
    assert all(slot_words(cameras, cameras.slot_order(r)) == [0, 1, 2, 3, 4, 5] for r in references)


@pytest.mark.parametrize("count", [2, 4, 5, 8, 24])
def test_words_come_from_directions_however_many_cameras_there_are(count: int) -> None:
    rig = Rig("ring", [orbit_camera(360 / count * i, 30) for i in range(count)])
    words = slot_words(rig, rig.slot_order(1))
    assert words[0] == 0 and words[count // 2] == 3, "front, and back on the opposite side"
    assert words == sorted(words) or words[-1] == 0


@given(st.floats(-180, 180), st.floats(-80, 89.999), st.floats(1.5, 4), st.floats(300, 1500))
def test_a_pixels_ray_passes_through_what_the_pixel_shows(azimuth: float, elevation: float, distance: float, focal: float) -> None:
    """Moment and direction are those of a line that goes through the camera and the point, in the input's frame."""
    cameras = [orbit_camera(40, 20), orbit_camera(azimuth, elevation, distance, focal_512=focal)]
    rays = pluecker_rays(camera_rows(cameras), [0, 1], 8).double().numpy()
    turn = np.radians(-40)
    spin = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    for camera, field in zip(cameras, rays, strict=True):
        moment, direction = field[:3, 5, 2], field[3:, 5, 2]
        place = spin @ camera.position
        np.testing.assert_allclose(np.cross(place, direction), moment, atol=1e-5)
        point = (place + 2 * direction) @ spin
        np.testing.assert_allclose(camera.project(point[None])[0, :2] / 64, [2.5, 5.5], atol=1e-4)
        assert np.linalg.norm(direction) == pytest.approx(1, abs=1e-6)


def test_near_the_pole_rays_move_no_more_than_the_camera_does() -> None:
    """Azimuth flips by 180 degrees there; the picture does too, and the frame follows the picture."""
    above = replace(orbit_camera(10, 90), w2c=orbit_camera(10, 90).w2c)
    for elevation in (89.0, 89.9, 89.999, 90.0):
        rays = pluecker_rays(camera_rows([orbit_camera(10, elevation), orbit_camera(70, 20)]), [0, 1], 4)
        wanted = pluecker_rays(camera_rows([above, orbit_camera(70, 20)]), [0, 1], 4)
        assert float((rays - wanted).abs().max()) < np.radians(90 - elevation) * 3 + 1e-5


def test_a_zoom_is_told() -> None:
    cameras = [orbit_camera(0, 20), orbit_camera(60, 20, focal_512=1098), orbit_camera(120, 20, distance=1.35)]
    features = pose_features(camera_rows(cameras), [0, 1, 2])
    assert features[0, -1] == 0
    np.testing.assert_allclose(features[1:, -1], np.log(0.5), atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("mode", ["relative_pose", "rays"])
def test_what_a_mode_adds_starts_at_zero_so_that_step_0_equals_the_source(
    mode: ViewConditioning, tiny_pipeline: MultiViewPipeline
) -> None:
    config = {**tiny_pipeline.unet.config, "view_conditioning": "prompt", "projection_class_embeddings_input_dim": 128}
    source = build_unet(config).eval()
    wider = with_view_conditioning(source, mode).eval()
    assert source.config.view_conditioning == "prompt" and wider.config.view_conditioning == mode
    x, t = torch.randn(6, 8, 16, 16), torch.tensor(500)
    text, labels = torch.randn(6, 77, 64), torch.randn(6, 128)
    rows = camera_rows(load_rig("ring60").cameras)
    told = [x, pluecker_rays(rows, [0, 5, 4, 3, 2, 1], 16)] if mode == "rays" else [x]
    before = source(x, t, encoder_hidden_states=text, class_labels=labels).sample
    both = torch.cat([labels, features("ring60", 0)], 1)
    after = wider(torch.cat(told, 1), t, encoder_hidden_states=text, class_labels=both).sample
    torch.testing.assert_close(after, before, atol=2e-5, rtol=0)  # a wider matrix product rounds otherwise
    with pytest.raises(InputError, match="unfed"):
        with_view_conditioning(wider, "prompt")
    assert widen_conv_in(wider) is wider, "what was learned stays"


@torch.no_grad()
def test_weights_serve_any_number_of_views(tiny_pipeline: MultiViewPipeline) -> None:
    unet = build_unet(dict(tiny_pipeline.unet.config)).eval()
    for views in (2, 4, 9):
        with_views(unet, views)
        labels = torch.randn(views, unet.config.projection_class_embeddings_input_dim)
        x, text = torch.randn(views, unet.config.in_channels, 16, 16), torch.randn(views, 77, 64)
        assert unet(x, torch.tensor(5), encoder_hidden_states=text, class_labels=labels).sample.shape[0] == views


def test_slots_are_named_by_where_their_camera_stands_as_seen_from_the_input() -> None:
    ring = load_rig("ring60")
    named = slot_directions(ring, "rays", [0, 1, 5])
    assert named == ["input", "60° to the left", "120° to the left", "opposite", "120° to the right", "60° to the right"]
    order, right = slot_views(ring, 2, "rays"), ring.cameras[2].w2c[0, :3]  # the input's own x axis, to its right
    for view, name in zip(order, named, strict=True):
        if "right" in name:
            assert (ring.cameras[view].position - ring.cameras[2].position) @ right > 0
    assert slot_directions(load_rig("markerless_mouse_1"), "rays", [0, 1]) is None, "on an uneven rig they differ"
    assert slot_directions(load_rig("markerless_mouse_1"), "rays", [0]) is not None
