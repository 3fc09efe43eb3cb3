"""Sample folders: what is broken is named, nothing is replaced in silence, and rendering repeats itself."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mvfl.cli import main
from mvfl.config.datasets import FolderDataset, RodentDataset
from mvfl.data.folder import block_split, check_folder
from mvfl.data.render import render_dataset
from mvfl.geometry.cameras import Camera, orbit_camera
from mvfl.records.manifest import Manifest, evenly
from mvfl.runtime.files import InputError
from mvfl.stages.jobs import DataJob


@pytest.fixture
def recording(tmp_path: Path, tiny_manifest: Manifest) -> FolderDataset:
    """A folder of four samples as a user would bring it."""
    for name in (*tiny_manifest.train, tiny_manifest.val[0]):
        shutil.copytree(tiny_manifest.root / name, tmp_path / "recording" / name)
    return FolderDataset(
        kind="folder", path=tmp_path / "recording", rig="ring60", image_size=32, extra_views=1, val_fraction=0.2, test_fraction=0.0, gap=1,
        max_reprojection_px=40,  # 32 px pictures: a pixel is 16 px of 512
    )  # fmt: skip


def edit_cameras(recording: FolderDataset, change: Callable[[dict[str, Any]], object]) -> None:
    path = recording.path / "sample_000001" / "opencv_cameras.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_a_good_recording_is_split_by_time_with_a_gap(recording: FolderDataset, tmp_path: Path) -> None:
    manifest = check_folder("mouse", recording, tmp_path / "out")
    assert manifest.train == ["sample_000000", "sample_000001", "sample_000002"]
    assert manifest.val == ["sample_000004"]
    again = Manifest.read(tmp_path / "out" / "manifest.json")
    assert (again.data_hash, again.rig.hash) == (manifest.data_hash, manifest.rig.hash)


def test_the_split_keeps_blocks_apart() -> None:
    names = [f"{i:03d}" for i in range(100)]
    train, val, test = block_split(names, 0.1, 5)
    assert train[-1] == "084" and val[0] == "090" and len(val) == 10 and test == []
    train, val, test = block_split(names, 0.1, 5, 0.1)
    assert (train[-1], val[0], val[-1], test[0], test[-1]) == ("069", "075", "084", "090", "099")
    with pytest.raises(InputError, match="too few"):
        block_split(names[:3], 0.3, 5)


def test_cameras_of_another_rig_are_refused(recording: FolderDataset, tmp_path: Path) -> None:
    other = recording.model_copy(update={"rig": "markerless_mouse_1"})
    with pytest.raises(InputError, match="cameras differ from rig 'markerless_mouse_1'"):
        check_folder("mouse", other, tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w2c, frame: [v * 123 for v in w2c], "the mean distance by 12200.0%"),
        (lambda w2c, frame: frame.update(cx=frame["cx"] + 8) or w2c, "principal points by 25.0% of the width"),
    ],
    ids=["millimetres", "stale principal point"],
)
def test_cameras_in_other_units_or_of_other_crops_are_refused(
    recording: FolderDataset, tmp_path: Path, change, message: str
) -> None:
    def edit(data: dict) -> None:
        for frame in data["frames"]:
            moved = change([row[3] for row in frame["w2c"][:3]], frame)
            for row, value in zip(frame["w2c"], moved, strict=False):
                row[3] = value

    edit_cameras(recording, edit)
    with pytest.raises(InputError, match=message):
        check_folder("mouse", recording, tmp_path / "out")


def test_cameras_that_an_animal_walked_past_are_its_own_and_two_that_were_exchanged_are_refused(
    recording: FolderDataset, tmp_path: Path
) -> None:
    def walked(data: dict) -> None:
        for view, frame in enumerate(data["frames"]):
            azimuth, elevation, distance = Camera.from_frame(frame, "x").spherical
            frame["w2c"] = orbit_camera(azimuth + 9, elevation, distance, 32).to_frame(view)["w2c"]

    edit_cameras(recording, walked)
    manifest = check_folder("mouse", recording.model_copy(update={"max_reprojection_px": 200}), tmp_path / "out")
    assert manifest.rig.disagreement(manifest.sample("sample_000001").cameras[:6]).angle == pytest.approx(9, abs=0.1)
    edit_cameras(recording, lambda data: data["frames"].__setitem__(slice(0, 2), data["frames"][1::-1]))
    with pytest.raises(InputError, match="view 0 stands where another of the rig's cameras should"):
        check_folder("mouse", recording.model_copy(update={"max_reprojection_px": 200}), tmp_path / "out")


def test_a_further_frame_shifts_nothing_in_silence(recording: FolderDataset, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds 7 frames, expected 6 of the rig and 0 further ones; set extra_views"):
        check_folder("mouse", recording.model_copy(update={"extra_views": 0}), tmp_path / "out")


@pytest.fixture(scope="module")
def larger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of a size at which silhouettes tell cameras apart."""
    out = tmp_path_factory.mktemp("larger")
    render_dataset("larger", RodentDataset(kind="rodent", image_size=128, train=5, val=1, seed=3), out, 2)
    return out / "samples"


def large_folder(path: Path) -> FolderDataset:
    return FolderDataset(kind="folder", path=path, rig="ring60", image_size=128, val_fraction=0.2, gap=0)


def test_pictures_that_belong_to_their_cameras_are_told_so(
    larger: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check_folder("mouse", large_folder(larger), tmp_path / "out")
    assert "Pictures fit their cameras" in capsys.readouterr().err


def test_swapped_views_are_found_by_their_silhouettes(larger: Path, tmp_path: Path) -> None:
    shutil.copytree(larger, tmp_path / "mixed")
    for images in (tmp_path / "mixed").glob("*/images"):
        a, b, aside = images / "cam_000.png", images / "cam_001.png", images / "x.png"
        a.rename(aside), b.rename(a), aside.rename(b)
    with pytest.raises(InputError, match="it looks as if the pictures of cameras view 0 and view 1 are swapped"):
        check_folder("mouse", large_folder(tmp_path / "mixed"), tmp_path / "out")


def test_animals_cut_off_at_the_border_are_refused(larger: Path, tmp_path: Path) -> None:
    shutil.copytree(larger, tmp_path / "cropped")
    for file in (tmp_path / "cropped").glob("*/images/*.png"):
        picture = Image.open(file)
        left, top, right, bottom = picture.getchannel("A").getbbox()
        picture.crop((left, top, right, bottom)).resize((128, 128)).save(file)
    with pytest.raises(InputError, match=r"In \d+ of 36 pictures the animal touches the border"):
        check_folder("mouse", large_folder(tmp_path / "cropped"), tmp_path / "out")


def test_chosen_samples_are_spread_over_the_recording() -> None:
    names = [f"{i:03d}" for i in range(100)]
    assert evenly(names, 4) == ["000", "033", "066", "099"] and evenly(names, 500) == names


FAULTS = {
    "missing": r"sample_000001/images/cam_003\.png does not exist; restore",
    "truncated": r"sample_000001/images/cam_003\.png cannot be read as a picture .* copy it again",
    "mirrored": r"sample_000001/opencv_cameras\.json, view 3: det R = -1\.000",
    "dropped view": r"sample_000001/opencv_cameras\.json holds 5 frames, expected 6",
    "empty alpha": r"sample_000001/images/cam_003\.png shows no animal: its alpha channel is empty",
}


@pytest.mark.parametrize(("fault", "sentence"), FAULTS.items())
def test_the_command_ends_with_a_sentence_and_status_1(
    fault: str,
    sentence: str,
    recording: FolderDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    picture = recording.path / "sample_000001" / "images" / "cam_003.png"
    match fault:
        case "missing":
            picture.unlink()
        case "truncated":
            picture.write_bytes(picture.read_bytes()[:300])
        case "mirrored":
            edit_cameras(recording, lambda d: d["frames"][3]["w2c"].__setitem__(0, [-v for v in d["frames"][3]["w2c"][0]]))
        case "dropped view":
            edit_cameras(recording, lambda d: d.update(frames=d["frames"][:5]))
        case "empty alpha":
            Image.fromarray(np.zeros((32, 32, 4), np.uint8)).save(picture)
    job = DataJob(name="mouse", dataset=recording, out=tmp_path / "out")
    monkeypatch.setattr("sys.argv", ["mvfl", "data", "--job", job.model_dump_json()])
    with pytest.raises(SystemExit) as ended:
        main()
    message = capsys.readouterr().err
    assert ended.value.code == 1 and re.search(f"Error: .*{sentence}", message) and "Traceback" not in message
    assert not list((tmp_path / "out").glob("*"))


def test_broken_json_and_a_missing_folder_are_named(recording: FolderDataset, tmp_path: Path) -> None:
    (recording.path / "sample_000001" / "opencv_cameras.json").write_text("{")
    with pytest.raises(InputError, match=r"sample_000001/opencv_cameras\.json cannot be read as JSON"):
        check_folder("mouse", recording, tmp_path / "out")
    with pytest.raises(InputError, match=r"does not exist; set datasets\.mouse\.path"):
        check_folder("mouse", recording.model_copy(update={"path": tmp_path / "nowhere"}), tmp_path / "out")


def test_rendering_repeats_itself_and_a_killed_one_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = RodentDataset(kind="rodent", image_size=32, train=2, val=1, seed=9)
    hashes = [render_dataset("x", settings, tmp_path / name, workers).data_hash for name, workers in (("a", 1), ("b", 2))]
    assert hashes[0] == hashes[1]

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    (tmp_path / "c" / ".samples.partial-1" / "sample_000000").mkdir(parents=True)  # of a job that SIGKILL ended
    job = DataJob(name="x", dataset=settings, out=tmp_path / "c")
    monkeypatch.setattr("sys.argv", ["mvfl", "data", "--job", job.model_dump_json()])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0 and Manifest.read(tmp_path / "c" / "manifest.json").data_hash == hashes[0]
    assert not list((tmp_path / "c").glob(".*"))

    shutil.rmtree(tmp_path / "c")
    monkeypatch.setattr("mvfl.data.render.tracked", killed)
    with pytest.raises(KeyboardInterrupt):
        render_dataset("x", settings, tmp_path / "c", 1)
    assert list((tmp_path / "c").iterdir()) == []
