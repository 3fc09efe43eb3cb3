"""Recordings: videos of calibrated cameras become samples whose cameras still match their pictures."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mvfl.config.datasets import MarkerlessDataset
from mvfl.data.calibration import convert_calibration, read_calibration
from mvfl.data.pictures import read_rgba
from mvfl.data.recording import prepare_recording
from mvfl.data.rodent.sampling import make_sample
from mvfl.geometry.cameras import Camera, CameraError, orbit_camera
from mvfl.geometry.lens import LensCamera
from mvfl.geometry.virtual import looking_at_origin, moved, triangulate, turned_picture
from mvfl.records.manifest import Manifest
from mvfl.runtime.files import InputError
from mvfl.stages.jobs import DataJob

WIDTH, HEIGHT, SIZE = 288, 256, 128
MILLIMETRES = 123.0  # per world unit
ANGLES = [(-147.0, 14.9, 2.4), (34.0, 20.6, 2.9), (86.1, 11.3, 2.7), (-11.3, 10.7, 2.7), (144.0, 26.5, 2.6), (-64.1, 30.8, 2.5)]
AWAY = np.array([0.12, -0.08, 0.1])  # the rig's cameras look past the animal's own centre


def recorded_cameras() -> list[Camera]:
    """Cameras in millimetres that look at the arena's middle, with lenses of their own."""
    out = []
    for number, (azimuth, elevation, distance) in enumerate(ANGLES):
        camera = orbit_camera(azimuth, elevation, distance)
        w2c = camera.w2c.copy()
        w2c[:3, 3] = MILLIMETRES * (w2c[:3, 3] - w2c[:3, :3] @ AWAY)
        focal = 330.0 + 3 * number
        out.append(Camera(WIDTH, HEIGHT, focal, focal + 1, WIDTH / 2 + 3, HEIGHT / 2 - 2, w2c))
    return out


def in_world_units(camera: Camera) -> Camera:
    return moved(camera, np.zeros(3), 1 / MILLIMETRES)


def write_video(path: Path, pictures: list[np.ndarray]) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "bgr0"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def square_renders(index: int) -> list[np.ndarray]:
    """The animal of one frame as seen by the recorded cameras: RGBA, straight alpha."""
    side = max(WIDTH, HEIGHT)
    cameras = [in_world_units(c) for c in recorded_cameras()]
    square = [Camera(side, side, c.fx, c.fy, c.cx, c.cy, c.w2c) for c in cameras]
    drawn = make_sample((5, index), square, ["brown"], ["stand"], 0.6, 0, frame_cameras=len(square))
    return [p[:HEIGHT, :WIDTH] for p in drawn.pictures]


@pytest.fixture(scope="session")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recording")
    frames = [square_renders(i) for i in range(4)]
    for camera in range(6):
        pictures = [f[camera] for f in frames]
        # A grey arena behind the animal, so that a wrong mask would be seen.
        scenes = [np.where(p[..., 3:] > 127, p[..., :3], np.uint8(90)) for p in pictures]
        write_video(folder / f"video_{camera}.mkv", scenes)
        write_video(folder / f"mask_{camera}.mkv", [np.repeat((p[..., 3:] > 127) * np.uint8(255), 3, -1) for p in pictures])
    entries = []
    for c in recorded_cameras():
        k = np.array([[c.fx, 0, c.cx], [0, c.fy, c.cy], [0, 0, 1]])
        entries.append({"R": c.w2c[:3, :3], "T": c.w2c[:3, 3:], "K": k})
    (folder / "new_cam.pkl").write_bytes(pickle.dumps(entries))
    convert_calibration(folder / "new_cam.pkl", folder / "cameras.json")
    return folder


def dataset(folder: Path, **changes: Any) -> MarkerlessDataset:
    values = {
        "kind": "markerless", "calibration": folder / "cameras.json", "videos": f"{folder}/video_{{camera}}.mkv",
        "masks": f"{folder}/mask_{{camera}}.mkv", "image_size": SIZE, "every": 1, "val_fraction": 0.3, "test_fraction": 0.0, "gap": 0,
    }  # fmt: skip
    return MarkerlessDataset.model_validate(values | changes)


def test_samples_have_the_virtual_lens_and_pictures_that_match_their_cameras(recording: Path, tmp_path: Path) -> None:
    manifest = prepare_recording("mouse", dataset(recording), tmp_path / "out", 2)
    assert (len(manifest.train), len(manifest.val)) == (3, 1)
    sample = manifest.sample("sample_000002")
    distances = [c.spherical[2] for n in manifest.train + manifest.val for c in manifest.sample(n).cameras]
    assert np.mean(distances) == pytest.approx(2.7, abs=1e-6)
    # The same animal, drawn directly through the cameras that were written, covers the same pixels in the same colours.
    report = json.loads((tmp_path / "out" / "recording.json").read_text())
    centre = np.array(sample.info["centre"]) / MILLIMETRES
    direct = [moved(c, -centre * report["scale"] * MILLIMETRES, 1 / (report["scale"] * MILLIMETRES)) for c in sample.cameras]
    side = max(WIDTH, HEIGHT)
    framing = [Camera(side, side, c.fx, c.fy, c.cx, c.cy, in_world_units(c).w2c) for c in recorded_cameras()]
    cameras = framing + [c.resized(side, side) for c in direct]
    drawn = make_sample((5, 2), cameras, ["brown"], ["stand"], 0.6, 0, frame_cameras=6).pictures[6:]
    drawn = [np.asarray(Image.fromarray(p).resize((SIZE, SIZE), Image.Resampling.BOX)) for p in drawn]
    for file, camera, wanted in zip(sample.files, sample.cameras, drawn, strict=True):
        assert camera.fx > 137.3 and camera.cx == SIZE / 2, "zoomed to the animal"
        got = read_rgba(file, SIZE)
        a, b = got[..., 3] > 127, wanted[..., 3] > 127
        assert (a & b).sum() / (a | b).sum() > 0.9
        inner = (got[..., 3] == 255) & (wanted[..., 3] == 255)
        assert np.abs(got[inner, :3].astype(float) - wanted[inner, :3]).mean() < 12
        assert not got[got[..., 3] == 0, :3].any(), "no arena around the animal"


def test_videos_that_do_not_belong_to_their_masks_are_named_and_right_ones_are_not(recording: Path, tmp_path: Path) -> None:
    """Calibration and masks agree, so that nothing else can see it."""
    mixed = tmp_path / "mixed"
    shutil.copytree(recording, mixed)
    (mixed / "video_1.mkv").rename(mixed / "kept")
    (mixed / "video_4.mkv").rename(mixed / "video_1.mkv")
    (mixed / "kept").rename(mixed / "video_4.mkv")
    for folder, wrong in ((recording, []), (mixed, ["1", "4"])):
        prepare_recording("mouse", dataset(folder), tmp_path / folder.name, 2)
        cameras = json.loads((tmp_path / folder.name / "recording.json").read_text())["cameras"]
        assert [c["name"] for c in cameras if "belong to the same camera and the same take" in (c["warning"] or "")] == wrong


def test_the_commands_convert_a_calibration_and_prepare_a_recording(recording: Path, tmp_path: Path) -> None:
    mvfl = str(Path(sys.executable).parent / "mvfl")
    made = subprocess.run([mvfl, "calibration", str(recording / "new_cam.pkl"), str(tmp_path / "c.json")], capture_output=True)
    assert made.returncode == 0 and (tmp_path / "c.json").read_text() == (recording / "cameras.json").read_text()

    def prepare(**changes: Any) -> subprocess.CompletedProcess[str]:
        job = DataJob(name="mouse", dataset=dataset(recording, calibration=tmp_path / "c.json", **changes), out=tmp_path / "out")
        return subprocess.run([mvfl, "data", "--job", job.model_dump_json()], capture_output=True, text=True)

    done = prepare(every=2, gap=5)
    assert (
        done.returncode == 1
        and "2 samples are too few for a validation share of 0.3, a test share of 0.0 and gaps of 5" in done.stderr
    )
    assert not (tmp_path / "out" / "manifest.json").exists()
    done = prepare()
    assert done.returncode == 0, done.stderr
    assert "4 samples, 0 frames left out" in done.stderr and Manifest.read(tmp_path / "out" / "manifest.json").views == 6


def test_unfit_frames_are_left_out_as_a_whole_with_their_reason(recording: Path, tmp_path: Path) -> None:
    for file in recording.glob("*.*"):
        (tmp_path / file.name).symlink_to(file)
    masks = [np.repeat((square_renders(i)[2][..., 3:] > 127) * np.uint8(255), 3, -1) for i in range(4)]
    masks[1][:] = 0
    masks[3][120:136, :150] = 255  # the animal and something that reaches the border are one piece
    (tmp_path / "mask_2.mkv").unlink()
    write_video(tmp_path / "mask_2.mkv", masks)
    with pytest.raises(InputError, match=r"2 of 4 frames .* unfit .* frame 1: the mask of camera 2 is empty; frame 3: .* border"):
        prepare_recording("mouse", dataset(tmp_path), tmp_path / "out", 2)
    assert not (tmp_path / "out" / "samples").exists()
    manifest = prepare_recording("mouse", dataset(tmp_path, max_dropped=0.5), tmp_path / "out", 2)
    assert [*manifest.train, *manifest.val] == ["sample_000000", "sample_000002"]
    dropped = json.loads((tmp_path / "out" / "recording.json").read_text())["dropped"]
    assert set(dropped) == {"1", "3"}


def test_an_interrupted_run_goes_on_where_it_stopped(recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = prepare_recording("mouse", dataset(recording), tmp_path / "out", 2)
    (state,) = (tmp_path / "out" / "state").iterdir()
    log = state / "frames.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines[:2]) + lines[2][:40])  # killed while it wrote the third line
    shutil.rmtree(state / "samples" / "sample_000001")
    kept = (state / "samples" / "sample_000002" / "opencv_cameras.json").stat().st_mtime_ns
    capsys.readouterr()
    again = prepare_recording("mouse", dataset(recording), tmp_path / "out", 2)
    said = capsys.readouterr().err
    assert "located in 2 of 4 frames already" in said and "3 of 4 samples are there already" in said
    assert again.data_hash == first.data_hash, "the same data, bit for bit"
    assert (state / "samples" / "sample_000002" / "opencv_cameras.json").stat().st_mtime_ns == kept


def test_a_tilt_on_which_level_cameras_agree_is_a_warning(
    recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tilted = [0.0, float(np.sin(np.radians(12))), float(np.cos(np.radians(12)))]
    prepare_recording("mouse", dataset(recording, up=tilted), tmp_path / "out", 2)
    assert "12.0 degrees away from datasets.<name>.up" in capsys.readouterr().err


def test_cameras_of_other_pictures_are_refused(recording: Path, tmp_path: Path) -> None:
    content = json.loads((recording / "cameras.json").read_text())
    content["cameras"][1], content["cameras"][2] = content["cameras"][2], content["cameras"][1]
    (tmp_path / "swapped.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="do not belong together"):
        prepare_recording("mouse", dataset(recording, calibration=tmp_path / "swapped.json"), tmp_path / "out", 2)


@pytest.mark.parametrize("turn", [[1, -1, -1], None], ids=["Z down", "Y up"])
def test_a_world_whose_z_axis_does_not_point_up_is_refused(turn: list | None, recording: Path, tmp_path: Path) -> None:
    """Animals would come out on their backs or sides, and everything else would fit."""
    rotation = np.diag(turn) if turn else np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]])
    data = json.loads((recording / "cameras.json").read_text())
    for camera in data["cameras"]:
        camera["R"] = (np.array(camera["R"]) @ rotation.T).tolist()
    (tmp_path / "cameras.json").write_text(json.dumps(data))
    with pytest.raises(InputError, match="the world's Z axis does not point up"):
        prepare_recording("mouse", dataset(recording, calibration=tmp_path / "cameras.json"), tmp_path / "out", 2)


def test_videos_of_different_length_missing_or_damaged_are_named(recording: Path, tmp_path: Path) -> None:
    for file in recording.glob("*.*"):
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "mask_4.mkv").unlink()
    with pytest.raises(InputError, match=r"mask_4.mkv does not exist"):
        prepare_recording("mouse", dataset(tmp_path), tmp_path / "out", 2)
    (tmp_path / "mask_4.mkv").write_bytes((recording / "mask_4.mkv").read_bytes()[:300])
    with pytest.raises(InputError, match=r"mask_4.mkv"):
        prepare_recording("mouse", dataset(tmp_path), tmp_path / "out", 2)
    (tmp_path / "mask_4.mkv").unlink()
    write_video(tmp_path / "mask_4.mkv", [np.zeros((HEIGHT, WIDTH, 3), np.uint8)] * 3)
    with pytest.raises(InputError, match=r"mask_4.mkv has 3 frames, the videos have 4: the mask belongs to another recording"):
        prepare_recording("mouse", dataset(tmp_path), tmp_path / "out", 2)


def test_a_pickle_that_could_run_code_is_not_read(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple:
            return print, ("ran",)

    (tmp_path / "bad.pkl").write_bytes(pickle.dumps([Harmful()]))
    with pytest.raises(InputError, match=r"builtins\.print.*it was not read"):
        convert_calibration(tmp_path / "bad.pkl", tmp_path / "out.json")
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"R": np.diag([1.0, 1, -1]).tolist()}, "not a rotation"),
        ({"K": [[300, 5, 100], [0, 300, 100], [0, 0, 1]]}, "skew"),
        ({"T": [1, 2]}, "T must have 3 numbers"),
    ],
)
def test_impossible_calibrations_name_file_and_camera(recording: Path, tmp_path: Path, change: dict, message: str) -> None:
    content = json.loads((recording / "cameras.json").read_text())
    content["cameras"][3] |= change
    (tmp_path / "cameras.json").write_text(json.dumps(content))
    with pytest.raises((InputError, CameraError), match=rf"cameras.json, camera 3: .*{message}"):
        read_calibration(tmp_path / "cameras.json", list("012345"), [(WIDTH, HEIGHT)] * 6)


points = st.tuples(*[st.floats(-0.4, 0.4)] * 3).map(np.array)


@given(points, st.floats(0.1, 10))
def test_moving_the_world_leaves_the_picture_as_it_is(centre: np.ndarray, scale: float) -> None:
    camera = in_world_units(recorded_cameras()[0])
    corners = np.random.default_rng(0).uniform(-0.4, 0.4, (5, 3))
    after = moved(camera, centre, scale).project(scale * (corners - centre))
    np.testing.assert_allclose(after[:, :2], camera.project(corners)[:, :2], atol=1e-6)


@given(points)
def test_a_point_is_found_again_from_its_projections(point: np.ndarray) -> None:
    cameras = [in_world_units(c) for c in recorded_cameras()]
    pixels = np.array([c.project(point[None])[0, :2] for c in cameras])
    found, errors = triangulate(cameras, pixels)
    np.testing.assert_allclose(found, point, atol=1e-9)
    assert errors.max() < 1e-6


@settings(max_examples=10, deadline=None)
@given(
    points, st.sampled_from([(), (-0.28, 0.05, 0.001, -0.002, 0.01), (0.1, -0.05, 0, 0, 0, 0.02, -0.01, 0)]), st.floats(200, 1500)
)
def test_a_turned_picture_shows_points_where_the_virtual_camera_sees_them(
    point: np.ndarray, lens: tuple[float, ...], focal: float
) -> None:
    """Whatever the lens and the zoom."""
    camera = LensCamera("a", in_world_units(recorded_cameras()[1]), lens)
    virtual = looking_at_origin(camera.camera, SIZE, focal)
    if np.abs(virtual.project(point[None])[0, :2] - SIZE / 2).max() > SIZE / 2 - 12:
        return
    u, v = camera.project(point[None])[0]
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    spot = (x - u) ** 2 + (y - v) ** 2 < 5**2
    alpha = turned_picture(np.full((HEIGHT, WIDTH, 3), 200, np.uint8), spot, camera, virtual)[..., 3].astype(float)
    rows, columns = np.mgrid[:SIZE, :SIZE] + 0.5
    seen = np.array([(columns * alpha).sum(), (rows * alpha).sum()]) / alpha.sum()
    # A disc of whole pixels has its middle not quite where the point is: where its own middle is seen is what counts.
    middle = np.argwhere(spot).mean(0)[::-1] + 0.5
    ray = np.append(camera.rays(middle[None])[0], 1.0) @ camera.camera.w2c[:3, :3]
    wanted = virtual.project((camera.camera.position + ray)[None])[0, :2]
    np.testing.assert_allclose(seen, wanted, atol=0.1)


def test_a_picture_is_never_turned_about_another_place() -> None:
    cameras = [in_world_units(c) for c in recorded_cameras()[:2]]
    nothing = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    with pytest.raises(ValueError, match="different places"):
        turned_picture(nothing, nothing[..., 0] > 0, LensCamera("a", cameras[0]), looking_at_origin(cameras[1], SIZE))
