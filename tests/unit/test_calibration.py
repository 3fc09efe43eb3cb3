"""Calibrations in the forms in which labs keep them: the same cameras come out, and what cannot be used is named."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvfl.config.datasets import MarkerlessDataset
from mvfl.data.calibration import convert_calibration, level_direction, read_calibration, upright
from mvfl.geometry.cameras import Camera, CameraError, orbit_camera
from mvfl.geometry.lens import LensCamera
from mvfl.runtime.files import InputError

NAMES = ["back", "mid", "side"]
SIZES = [(640, 480), (640, 480), (800, 600)]
LENS = (-0.28, 0.07, 0.001, -0.002, 0.01)


def cameras() -> list[LensCamera]:
    out = []
    for number, (name, (width, height)) in enumerate(zip(NAMES, SIZES, strict=True)):
        w2c = orbit_camera(100 * number, 20 + 20 * number).w2c.copy()
        w2c[:3, 3] *= 150
        out.append(
            LensCamera(name, Camera(width, height, 700 + number, 701, width / 2 + 3, height / 2 - 2, w2c), LENS if number else ())
        )
    return out


def parts(c: LensCamera, centre: float = 0.0) -> dict[str, Any]:
    """K, R, T and lens; `centre` is what the format counts pixels from."""
    camera = c.camera
    k = np.array([[camera.fx, 0, camera.cx - centre], [0, camera.fy, camera.cy - centre], [0, 0, 1]])
    return {"k": k, "r": camera.w2c[:3, :3], "t": camera.w2c[:3, 3], "d": np.array(c.distortion or (0.0,) * 5)}


def write_toml(path: Path, caliscope: bool = False) -> None:
    lines = []
    for number, c in enumerate(cameras()):
        p = parts(c, 0.5)
        rotation = cv2.Rodrigues(p["r"])[0].ravel().tolist()
        name = f'port = "{c.name}"\nignore = false' if caliscope else f'name = "{c.name}"'
        lines.append(
            f"[cam_{number}]\n{name}\nsize = {[c.camera.width, c.camera.height]}\nmatrix = {p['k'].tolist()}\n"
            f"distortions = {p['d'].tolist()}\nrotation = {rotation}\ntranslation = {p['t'].tolist()}\n"
        )
    path.write_text("\n".join([*lines, "[metadata]\nadjusted = false\n"]))


def write_json(path: Path, **more: Any) -> None:
    entries = [
        {"name": c.name, "R": p["r"].tolist(), "T": p["t"].tolist(), "K": p["k"].tolist(), "distortion": p["d"].tolist(), **more}
        for c in cameras() for p in [parts(c)]
    ]  # fmt: skip
    path.write_text(json.dumps({"cameras": entries}))


def write_storage(path: Path) -> None:
    storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_WRITE)
    for c in cameras():
        p = parts(c, 0.5)
        storage.startWriteStruct(c.name, cv2.FILE_NODE_MAP)
        storage.write("camera_matrix", p["k"])
        storage.write("distortion_coefficients", p["d"])
        storage.write("R", p["r"])
        storage.write("T", p["t"])
        storage.write("image_width", c.camera.width)
        storage.write("image_height", c.camera.height)
        storage.endWriteStruct()
    storage.release()


def write_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps([{"R": p["r"], "T": p["t"], "K": p["k"], "dist": p["d"]} for c in cameras() for p in [parts(c)]]))


FORMS = {
    "anipose.toml": write_toml, "caliscope.toml": lambda p: write_toml(p, caliscope=True), "cameras.json": write_json,
    "opencv.yml": write_storage, "opencv.xml": write_storage, "new_cam.pkl": write_pickle,
}  # fmt: skip


def assert_same(found: list[LensCamera], wanted: list[LensCamera]) -> None:
    for a, b in zip(found, wanted, strict=True):
        assert a.name == b.name and (a.camera.width, a.camera.height) == (b.camera.width, b.camera.height)
        np.testing.assert_allclose(a.camera.w2c, b.camera.w2c, atol=1e-9)
        np.testing.assert_allclose(a.matrix(), b.matrix(), atol=1e-9)
        np.testing.assert_allclose(a.coefficients(), b.coefficients(), atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_cameras(form: str, tmp_path: Path) -> None:
    FORMS[form](tmp_path / form)
    assert_same(read_calibration(tmp_path / form, NAMES, SIZES), cameras())
    if form != "new_cam.pkl":  # names decide, not the order; a pickle has none
        mixed = [2, 0, 1]
        found = read_calibration(tmp_path / form, [NAMES[i] for i in mixed], [SIZES[i] for i in mixed])
        assert_same(found, [cameras()[i] for i in mixed])


def test_one_file_per_camera_is_a_form_too(tmp_path: Path) -> None:
    for c in cameras():
        p = parts(c)
        entry = {"R": p["r"].tolist(), "T": p["t"].tolist(), "K": p["k"].tolist(), "dist": p["d"].tolist()}
        (tmp_path / f"{c.name}.json").write_text(json.dumps(entry))
    assert_same(read_calibration(tmp_path / "{camera}.json", NAMES, SIZES), cameras())


def test_a_converted_pickle_keeps_its_lenses(tmp_path: Path) -> None:
    write_pickle(tmp_path / "new_cam.pkl")
    assert convert_calibration(tmp_path / "new_cam.pkl", tmp_path / "cameras.json") == 3
    assert_same(read_calibration(tmp_path / "cameras.json", NAMES, SIZES), cameras())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"fisheye": True}, "fisheye"),
        ({"distortion": [0.1] * 12}, "12 distortion coefficients, and not all are 0; 4, 5 or 8 are known"),
        ({"distortion": [1e6, 0, 0, 0, 0]}, "is no lens"),
        ({"distortion": [float("nan"), 0, 0, 0, 0]}, "NaN"),
        ({"size": [320, 240]}, r"calibrated at 320 x 240 pixels, its video has 640 x 480"),
        ({"R": [[1, 0, 0], [0, 1, 0]]}, "R and K must be 3 x 3"),
    ],
)
def test_what_cannot_be_used_is_named(more: dict[str, Any], message: str, tmp_path: Path) -> None:
    write_json(tmp_path / "cameras.json", **more)
    with pytest.raises((InputError, CameraError), match=message):
        read_calibration(tmp_path / "cameras.json", NAMES, SIZES)


def test_coefficients_of_an_unknown_model_that_are_all_zero_are_no_lens(tmp_path: Path) -> None:
    write_json(tmp_path / "cameras.json", distortion=[0.0] * 14)
    assert [c.distortion for c in read_calibration(tmp_path / "cameras.json", NAMES, SIZES)] == [()] * 3


def test_cameras_without_a_video_and_videos_without_a_camera_are_named(tmp_path: Path) -> None:
    write_json(tmp_path / "cameras.json")
    with pytest.raises(InputError, match="there is no video of 'side'"):
        read_calibration(tmp_path / "cameras.json", NAMES[:2], SIZES[:2])
    assert len(read_calibration(tmp_path / "cameras.json", NAMES[:2], SIZES[:2], every_camera=False)) == 2
    with pytest.raises(InputError, match="no calibration of 'top'"):
        read_calibration(tmp_path / "cameras.json", ["back", "mid", "top"], SIZES)


@pytest.mark.parametrize(
    "up", ["z", "-z", "x", "-y", [0.2, -0.5, 0.8], {"level_camera": "mid"}, {"floor": [[0, 0, 0], [0, 9, 1], [5, 0, 2]]}]
)
def test_up_becomes_z(up: Any) -> None:
    base = {"kind": "markerless", "calibration": "c.json", "videos": "{camera}.mp4", "up": up}
    chosen = MarkerlessDataset.model_validate(base).up
    turned = upright(cameras(), chosen)
    wanted = {"z": [0, 0, 1], "-z": [0, 0, -1], "x": [1, 0, 0], "-y": [0, -1, 0]}.get(up if isinstance(up, str) else "")
    if wanted is None:
        level, floor = -cameras()[1].camera.w2c[1, :3], np.cross([0, 9, 1], [5, 0, 2])
        wanted = up if isinstance(up, list) else level if "level_camera" in up else floor
    old = np.array(wanted, float) / np.linalg.norm(wanted)
    for before, after in zip(cameras(), turned, strict=True):
        np.testing.assert_allclose(after.camera.w2c[:3, :3] @ [0, 0, 1], before.camera.w2c[:3, :3] @ old, atol=1e-9)
        assert np.linalg.det(after.camera.w2c[:3, :3]) == pytest.approx(1)
        np.testing.assert_allclose(after.camera.w2c[:3, 3], before.camera.w2c[:3, 3], atol=1e-9)


def test_an_up_that_gives_no_direction_is_refused() -> None:
    for up, message in (
        ([0.0, 0, 0], "no direction"),
        ({"level_camera": "top"}, "no camera 'top'"),
        ({"floor": [[0, 0, 0], [1, 1, 1], [2, 2, 2]]}, "line"),
    ):
        base = {"kind": "markerless", "calibration": "c.json", "videos": "{camera}.mp4", "up": up}
        with pytest.raises(InputError, match=message):
            upright(cameras(), MarkerlessDataset.model_validate(base).up)


def test_cameras_without_roll_tell_where_up_is() -> None:
    tilted = [c.turned(cv2.Rodrigues(np.array([0.3, 0, 0]))[0]) for c in cameras()]
    np.testing.assert_allclose(level_direction(tilted), cv2.Rodrigues(np.array([0.3, 0, 0]))[0] @ [0, 0, 1], atol=1e-6)


lenses = st.sampled_from([(), (-0.28, 0.0, 0.0, 0.0, 0.0), LENS, (0.1, -0.05, 0.001, 0, 0, 0.02, -0.01, 0.0), (-0.2, 0.05, 0, 0)])


@given(lenses, st.floats(60, 580), st.floats(60, 420), st.floats(100, 900))
def test_a_pixels_ray_leads_back_to_the_pixel(lens: tuple[float, ...], column: float, row: float, depth: float) -> None:
    camera = replace(cameras()[0], distortion=lens)
    flat = camera.rays(np.array([[column, row]]))
    if not np.isfinite(flat).all():
        return
    seen = np.append(flat[0] * depth, depth)
    w2c = camera.camera.w2c
    point = w2c[:3, :3].T @ (seen - w2c[:3, 3])
    np.testing.assert_allclose(camera.project(point[None])[0], [column, row], atol=1e-3)
    bent = cv2.projectPoints(point[None], cv2.Rodrigues(w2c[:3, :3])[0], w2c[:3, 3], camera.matrix(), camera.coefficients())[0]
    np.testing.assert_allclose(bent.ravel(), [column, row], atol=1e-3)


def test_a_strong_lens_shows_nothing_twice() -> None:
    """k1 alone folds back beyond 47 degrees; points out there would be seen in the picture again."""
    camera = LensCamera("a", Camera(1280, 1024, 770, 770, 640, 512, np.eye(4)), (-0.285, 0.0, 0.0, 0.0, 0.0))
    angles = np.radians(np.arange(0, 85, 5.0))
    seen = camera.project(np.stack([np.sin(angles), 0 * angles, np.cos(angles)], 1))[:, 0]
    shown = seen[np.isfinite(seen)]
    assert (np.diff(shown) > 0).all() and np.isnan(seen[angles > np.radians(50)]).all()
    assert np.isnan(camera.project(np.array([[0.0, 0, -1]]))).all()
