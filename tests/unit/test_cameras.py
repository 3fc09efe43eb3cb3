"""Cameras and rigs: conventions, impossible cameras, slot order."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvfl.geometry.cameras import Camera, CameraError, orbit_camera
from mvfl.geometry.rig import BUILT_IN_RIGS, Rig, load_rig

azimuths = st.floats(-720, 720)
elevations = st.floats(-80, 80)
distances = st.floats(0.5, 10)


@given(azimuths, elevations, distances)
def test_an_orbit_camera_looks_at_the_origin_from_where_it_says(azimuth: float, elevation: float, distance: float) -> None:
    camera = orbit_camera(azimuth, elevation, distance)
    camera.check("orbit")
    np.testing.assert_allclose(camera.project(np.zeros((1, 3)))[0], [256, 256, distance], atol=1e-6)
    a, e, d = camera.spherical
    assert abs((a - azimuth + 180) % 360 - 180) < 1e-6
    assert (e, d) == (pytest.approx(elevation, abs=1e-6), pytest.approx(distance))


@given(azimuths, elevations)
def test_up_in_the_world_is_up_in_the_picture(azimuth: float, elevation: float) -> None:
    camera = orbit_camera(azimuth, elevation)
    above, below = camera.project(np.array([[0, 0, 0.2], [0, 0, -0.2]]))
    assert above[1] < below[1]


@given(azimuths, elevations, st.integers(16, 2048))
def test_intrinsics_follow_the_pixels(azimuth: float, elevation: float, size: int) -> None:
    camera = orbit_camera(azimuth, elevation)
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (5, 3))
    expected = camera.project(points)[:, :2] * size / 512
    np.testing.assert_allclose(camera.resized(size, size).project(points)[:, :2], expected, rtol=1e-9)


@settings(max_examples=20)
@given(azimuths, elevations)
def test_a_frame_of_json_keeps_the_camera(azimuth: float, elevation: float) -> None:
    camera = orbit_camera(azimuth, elevation)
    again = Camera.from_frame(json.loads(json.dumps(camera.to_frame(3))), "here")
    np.testing.assert_array_equal(again.w2c, camera.w2c)
    assert again.fx == camera.fx


def broken(w2c: np.ndarray) -> dict:
    return replace(orbit_camera(30, 20), w2c=w2c).to_frame(0)


def test_a_mirrored_camera_is_refused_with_its_determinant() -> None:
    w2c = orbit_camera(30, 20).w2c.copy()
    w2c[0] *= -1
    with pytest.raises(CameraError, match=r"views\.json, view 2: det R = -1"):
        Camera.from_frame(broken(w2c), "views.json, view 2")


def test_a_camera_with_its_back_to_the_animal_is_refused() -> None:
    w2c = orbit_camera(30, 20).w2c.copy()
    w2c[1:3] *= -1
    with pytest.raises(CameraError, match="behind the camera"):
        Camera.from_frame(broken(w2c), "x")


def test_a_scaled_rotation_is_refused() -> None:
    w2c = orbit_camera(30, 20).w2c.copy()
    w2c[:3, :3] *= 1.5
    with pytest.raises(CameraError, match="not orthonormal"):
        Camera.from_frame(broken(w2c), "x")


@pytest.mark.parametrize("name", sorted(BUILT_IN_RIGS))
def test_built_in_rigs_are_possible(name: str) -> None:
    rig = load_rig(name)
    for camera in rig.cameras:
        camera.check(name)
    assert Rig.from_json(json.loads(json.dumps(rig.to_json())), name).hash == rig.hash


def test_the_published_rig_in_slot_order_is_front_front_right_right_back_left_front_left() -> None:
    assert load_rig("facelift").slot_order(0) == [0, 1, 2, 3, 4, 5]


def test_slots_of_the_measured_rig_follow_its_azimuths_not_its_indices() -> None:
    # front = cam 0, front_right = cam 4, right = cam 2, back = cam 1, left = cam 3, front_left = cam 5
    assert load_rig("markerless_mouse_1").slot_order(0) == [0, 4, 2, 1, 3, 5]


@pytest.mark.parametrize(("name", "symmetric"), [("ring60", True), ("facelift", False), ("markerless_mouse_1", False)])
def test_only_the_uniform_ring_maps_onto_itself(name: str, symmetric: bool) -> None:
    assert load_rig(name).is_symmetric is symmetric


def test_the_hash_ignores_the_size_and_sees_a_moved_camera() -> None:
    rig = load_rig("ring60", 512)
    assert rig.hash == load_rig("ring60", 64).hash
    moved = Rig("ring60", [*rig.cameras[:5], orbit_camera(301, 20)])
    assert moved.hash != rig.hash
    assert moved.disagreement(rig.cameras)[0] == pytest.approx(1.0, abs=0.1)


def test_an_unknown_rig_names_the_built_in_ones() -> None:
    with pytest.raises(CameraError, match="facelift, markerless_mouse_1, ring60"):
        load_rig("ring_60")
