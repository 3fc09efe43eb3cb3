"""Files as phones, machine-vision cameras, foreign disks and other people leave them."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from mvfl.config.datasets import MarkerlessDataset
from mvfl.config.patterns import names_in
from mvfl.data import recording
from mvfl.data.locating import Located
from mvfl.data.masks import read_mask
from mvfl.data.pictures import read_rgba
from mvfl.data.plausible import judge_unit
from mvfl.data.recording import make_masks_of
from mvfl.data.resampling import put_in_place
from mvfl.data.videos import frame_count, read_frames, video_size
from mvfl.geometry.cameras import Camera
from mvfl.geometry.lens import LensCamera
from mvfl.runtime.files import InputError, folder_bytes


@pytest.mark.parametrize("degrees", [0, 90, 180, -90])
def test_a_video_that_was_filmed_on_its_side_is_read_upright_as_opencv_does(degrees: int, tmp_path: Path) -> None:
    path, picture = tmp_path / "phone.mp4", np.zeros((32, 64, 3), np.uint8)
    picture[:8, :16] = 255
    with av.open(str(path), "w") as film:
        stream = film.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        if degrees:
            stream.set_display_rotation(degrees)
        film.mux([p for _ in range(2) for p in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24"))])
        film.mux(stream.encode())
    ((_, frame),) = read_frames(path, {0})
    _, other = cv2.VideoCapture(str(path)).read()
    assert np.array_equal(frame, other[..., ::-1])
    assert video_size(path) == (frame.shape[1], frame.shape[0]) == ((32, 64) if degrees % 180 else (64, 32))


def test_twelve_bits_in_a_file_of_sixteen_are_no_black_picture(tmp_path: Path) -> None:
    values = np.full((32, 32), 4095, np.uint16)
    values[8:24, 8:24] = 1000
    Image.fromarray(values).save(tmp_path / "a.png")
    rgba = read_rgba(tmp_path / "a.png", 32)
    assert rgba[16, 16, 3] == 255 and abs(int(rgba[16, 16, 0]) - 62) <= 1 and rgba[0, 0, 3] == 0


def test_the_alpha_channel_of_a_grey_mask_says_nothing_about_the_animal(tmp_path: Path) -> None:
    grey = np.zeros((8, 8), np.uint8)
    grey[2:4] = 255
    Image.merge("LA", [Image.fromarray(grey), Image.new("L", (8, 8), 255)]).save(tmp_path / "m.png")
    assert np.array_equal(read_mask(tmp_path / "m.png"), grey)


def test_hidden_twins_are_no_cameras_and_names_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    for name in ("left.mp4", "._left.mp4", "right.mp4"):
        (tmp_path / name).touch()
    assert names_in(str(tmp_path / "{camera}.mp4")) == ["left", "right"]
    (tmp_path / "top view.mp4").touch()
    with pytest.raises(ValueError, match=r"'top view' holds others; rename the file"):
        names_in(str(tmp_path / "{camera}.mp4"))


def test_masks_of_another_recording_are_not_taken_for_this_one_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording.Recording, "open", lambda *_: None)
    (tmp_path / "c.toml").touch()

    def settings(folder: str) -> MarkerlessDataset:
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "left.mp4").write_text(folder)
        named = {"kind": "markerless", "calibration": tmp_path / "c.toml", "videos": f"{tmp_path / folder}/{{camera}}.mp4"}
        return MarkerlessDataset.model_validate(named)

    out = tmp_path / "masks"
    (out / "left").mkdir(parents=True)
    first = settings("monday")
    make_masks_of(first, out, 1)
    (out / "left" / "000000.png").touch()
    make_masks_of(first, out, 1)
    with pytest.raises(InputError, match="masks that were made of other videos"):
        make_masks_of(settings("tuesday"), out, 1)


def test_another_split_repeats_no_work_and_another_size_does() -> None:
    def mark(**changes: object) -> str:
        named = {"kind": "markerless", "calibration": "c.toml", "videos": "{camera}.mp4", "cameras": 2, **changes}
        return recording._mark(MarkerlessDataset.model_validate(named), recording.Recording([], [], []))

    assert mark() == mark(test_fraction=0.3, val_fraction=0.2, gap=4) != mark(image_size=64)


def test_frames_that_were_cut_off_without_encoding_anew_are_not_counted(tmp_path: Path) -> None:
    """`ffmpeg -ss 5 -c copy` leaves them in the file, before its beginning."""
    whole, part = tmp_path / "whole.mp4", tmp_path / "part.mp4"
    with av.open(str(whole), "w") as film:
        stream = film.add_stream("libx264", rate=30, options={"bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        pictures = [av.VideoFrame.from_ndarray(np.full((64, 64, 3), 20 * i, np.uint8), format="rgb24") for i in range(12)]
        film.mux([packet for picture in [*pictures, None] for packet in stream.encode(picture)])
    with av.open(str(whole)) as source, av.open(str(part), "w", options={"avoid_negative_ts": "disabled"}) as film:
        stream = film.add_stream_from_template(source.streams.video[0])
        for packet in (p for p in source.demux(video=0) if p.size):
            packet.pts, packet.dts, packet.stream = packet.pts - 5 * packet.duration, packet.dts - 5 * packet.duration, stream
            film.mux(packet)
    assert frame_count(whole) == 12 and frame_count(part) == 7
    shown = [int(picture.mean()) for _, picture in read_frames(part, set(range(7)))]
    assert len(shown) == 7 and shown[0] == pytest.approx(100, abs=6), "the sixth is the first"


def test_a_calibration_in_metres_is_suspected(capsys: pytest.CaptureFixture[str]) -> None:
    cameras = [LensCamera(str(at), Camera(64, 64, 60, 60, 32, 32, np.eye(4) - at * np.eye(4, k=3))) for at in (0.0, 0.5)]
    mouse = Located(0, [], np.array([0, 0, 0.6]), 0.0, [], [], [0.08, 0.06])  # 0.1 units large
    for unit, said in ((1.0, True), (10.0, True), (1000.0, False)):
        settings = MarkerlessDataset(kind="markerless", calibration=Path("c.toml"), videos="{camera}.mp4", unit_mm=unit)
        judge_unit(settings, cameras, [mouse])
        assert ("in centimetres, set unit_mm: 10, in metres 1000" in capsys.readouterr().err) is said
    apart = [replace(c, camera=replace(c.camera, w2c=np.eye(4) - 50 * at * np.eye(4, k=3))) for at, c in enumerate(cameras)]
    settings = MarkerlessDataset(kind="markerless", calibration=Path("c.toml"), videos="{camera}.mp4")
    judge_unit(settings, apart, [replace(mouse, extents=[0.08, 0.0016])])
    assert "the animal is" in capsys.readouterr().err, "cameras 50 mm apart are possible, an animal of a tenth of one is not"


def test_samples_are_copied_where_a_disk_knows_no_links_and_the_old_ones_go_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, samples = tmp_path / "state", tmp_path / "samples"
    (made / "sample_000001").mkdir(parents=True)
    (made / "sample_000001" / "a.png").write_text("new")
    (samples / "sample_000001").mkdir(parents=True)

    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    with monkeypatch.context() as patch, pytest.raises(Exception, match="full"):
        patch.setattr("mvfl.data.resampling.shutil.copy2", lambda *_: (_ for _ in ()).throw(OSError("full")))
        put_in_place(made, samples, ["sample_000001"])
    assert samples.is_dir(), "what was there is still there"
    put_in_place(made, samples, ["sample_000001"])
    assert (samples / "sample_000001" / "a.png").read_text() == "new"


def test_sizes_are_counted_while_folders_get_other_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_bytes(b"1234")
    scandir = os.scandir

    def racing(place: os.PathLike[str]) -> object:
        if os.path.basename(place) == "b" and (tmp_path / "b").exists():
            (tmp_path / "b").rename(tmp_path / "c")
        return scandir(place)

    monkeypatch.setattr(os, "scandir", racing)
    assert folder_bytes(tmp_path) == 4
