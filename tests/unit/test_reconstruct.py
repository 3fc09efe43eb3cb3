"""One picture to a 3D model: what may be given, and how it is framed."""

from __future__ import annotations

import csv
import math
import os
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pynwb import NWBHDF5IO

from mvfl.config.experiment import Sampling, ViewSampling
from mvfl.config.gslrm import GslrmFinetuning
from mvfl.data.framing import Framing, framed, framing, usual_framing
from mvfl.data.photos import Cut, read_photo
from mvfl.data.pictures import view_pictures
from mvfl.geometry.cameras import orbit_camera, turntable
from mvfl.geometry.tensors import camera_tensors
from mvfl.gslrm.body import DEGREES, SHELLS
from mvfl.gslrm.export import Filters, filled_by, write_model
from mvfl.gslrm.gaussians import Gaussians
from mvfl.gslrm.ply import load_ply
from mvfl.records.manifest import Manifest
from mvfl.runtime.files import InputError, write_text
from mvfl.runtime.provenance import write_provenance
from mvfl.stages import model3d
from mvfl.stages.model3d import Model3D
from mvfl.stages.reconstruct import Extras, _clear, require_own, run
from mvfl.stages.reconstructor import Reconstructor, read_experiment
from mvfl.stages.sources import Choice, _pictures_in


def disc(height: int, width: int, row: float, column: float, radius: float) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    alpha = ((y - row) ** 2 + (x - column) ** 2 < radius**2).float()
    return torch.stack([0.2 * alpha, 0.3 * alpha, 0.4 * alpha, alpha])


places = st.tuples(st.floats(0.4, 0.6), st.floats(0.4, 0.6))


@settings(max_examples=25, deadline=None)
@given(st.floats(10, 190), st.floats(10, 290), st.floats(8, 60), st.floats(0.15, 0.4), places)
def test_a_reframed_animal_has_the_wanted_size_and_place(
    row: float, column: float, radius: float, ratio: float, place: tuple[float, float]
) -> None:
    picture = disc(200, 300, row, column, radius)
    got = framing(((1 - framed(picture, 64, Framing(ratio, place))).mean(0) > 0.3).float())
    assert got.size_ratio == pytest.approx(ratio, abs=0.03)
    assert got.centre == pytest.approx(place, abs=0.015)


def test_a_kept_frame_is_the_picture_over_white() -> None:
    picture = disc(64, 64, 20, 40, 10)
    torch.testing.assert_close(framed(picture, 64, None), picture[:3] + 1 - picture[3:], atol=1e-5, rtol=0)
    with pytest.raises(InputError, match="300 x 200 pixels; it must be square, or use --reframe"):
        framed(disc(200, 300, 20, 40, 10), 64, None)


def test_without_alpha_the_animal_is_what_differs_from_white(tmp_path: Path) -> None:
    rgb = np.full((40, 40, 3), 255, np.uint8)
    rgb[10:20, 10:30] = 60
    Image.fromarray(rgb).save(tmp_path / "mouse.png")
    rgba = read_photo(tmp_path / "mouse.png")
    assert int(rgba[3].sum()) == 200 and framing(rgba[3]).size_ratio == pytest.approx((200 / 1600) ** 0.5)


@pytest.mark.parametrize(
    ("level", "message"), [(255, "shows no animal"), (90, "no alpha channel and no white background: cut the animal out")]
)
def test_pictures_without_an_animal_are_refused(tmp_path: Path, level: int, message: str) -> None:
    Image.fromarray(np.full((16, 16, 3), level, np.uint8)).save(tmp_path / "x.png")
    with pytest.raises(InputError, match=message):
        read_photo(tmp_path / "x.png")


def test_missing_and_damaged_pictures_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing.png does not exist"):
        read_photo(tmp_path / "nothing.png")
    (tmp_path / "half.png").write_bytes(b"\x89PNG")
    with pytest.raises(InputError, match=r"half.png cannot be read as a picture"):
        read_photo(tmp_path / "half.png")


def test_a_training_picture_cut_out_and_enlarged_gets_its_own_frame_back(tiny_manifest: Manifest) -> None:
    picture = view_pictures(tiny_manifest, tiny_manifest.train[1])[2]
    rows, columns = (picture[3] > 0).nonzero().T
    cut = picture[:, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    large = torch.nn.functional.interpolate(cut[None], scale_factor=3, mode="nearest")[0]
    own, usual = framing(picture[3]), usual_framing(tiny_manifest, large)
    assert usual.size_ratio == pytest.approx(own.size_ratio, rel=0.25)
    assert usual.centre == pytest.approx(own.centre, abs=0.12)


def test_an_unfinished_experiment_names_the_target_to_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere does not exist; name the folder of a finished experiment"):
        read_experiment(tmp_path / "nowhere")
    with pytest.raises(InputError, match="run the `gslrm` target of this experiment first"):
        read_experiment(tmp_path)
    write_provenance(tmp_path / "gslrm", "gslrm", GslrmFinetuning().model_dump(mode="json"), {})
    with pytest.raises(InputError, match="run the `synthetic` target first"):
        read_experiment(tmp_path)


def test_an_experiment_on_recorded_views_alone_is_used_without_generated_ones(tmp_path: Path) -> None:
    """Its networks are named by its verdict."""
    write_provenance(tmp_path / "gslrm", "gslrm", GslrmFinetuning(inputs="real").model_dump(mode="json"), {})
    with pytest.raises(InputError, match="run the `evaluate` target first"):
        read_experiment(tmp_path)
    files: dict[str, Path | str] = {}
    for key in ("checkpoint", "base", "manifest", "prompts"):
        files[key] = tmp_path / "made" / key
        write_text(tmp_path / "made" / key, key)
    for step, guidance in ((500, 2.0), (2000, 1.5)):
        sampling = ViewSampling(reference="random", view_conditioning="rays", sampling=Sampling(guidance=guidance))
        settings = {"scoring": {}, "sampling": sampling.model_dump(mode="json")}
        write_provenance(tmp_path / "evaluation" / f"step-{step}", "score", settings, files)
    learned = read_experiment(tmp_path)
    assert learned.generation.sampling.guidance == 1.5 and learned.manifest == tmp_path / "made" / "manifest"


def test_a_result_never_replaces_files_that_are_none_of_its_own(pictures: Path, tmp_path: Path) -> None:
    for mine in ("animal.png", "index.html"):
        folder = tmp_path / mine.partition(".")[0]
        write_text(folder / mine, "mine")
        write_text(folder / "thesis.txt", "mine")
        with pytest.raises(InputError, match=r"holds other files, and a result could replace some of them; name a new folder"):
            run([pictures / "mouse0.png"], folder)
        assert (folder / mine).read_text() == "mine"
    with pytest.raises(InputError, match=r"cannot be written \(File exists\); name another folder"):
        run([pictures / "mouse0.png"], pictures / "mouse0.png")
    for part in ("gaussians.ply", "views/cam_000.png", "animal.splat"):  # of a run that was interrupted
        write_text(tmp_path / "begun" / part, "")
    require_own(tmp_path / "begun")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("my own page")
    with pytest.raises(InputError, match="holds other files"):
        require_own(tmp_path / "site")
    write_text(tmp_path / "begun" / "views" / "notes.txt", "mine")
    _clear(tmp_path / "begun")
    assert [file.name for file in (tmp_path / "begun" / "views").iterdir()] == ["notes.txt"]
    require_own(tmp_path / "new" / "folder")


def test_what_is_no_picture_is_said_before_weights_are_loaded_for_it(base: Path, tmp_path: Path) -> None:
    write_text(tmp_path / "notes.txt", "x")
    with pytest.raises(InputError, match=r"notes\.txt is no picture or video; name such"):
        run([tmp_path / "notes.txt"], tmp_path / "out", base)


def test_hidden_files_are_no_pictures(pictures: Path) -> None:
    for twin in ("._mouse0.png", ".DS_Store.png"):
        (pictures / twin).write_bytes(b"")
    assert [file.name for file in _pictures_in(pictures)] == ["mouse0.png", "mouse1.png", "mouse2.png"]


@pytest.fixture(autouse=True)
def few_small_silhouettes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights draw Gaussians as large as the picture, which take long; tests/unit/test_body.py looks at the body itself."""
    for name, value in (("SIZE", 24), ("AROUND", 3), ("SIDE", 24)):
        monkeypatch.setattr(f"mvfl.gslrm.body.{name}", value)


@pytest.fixture
def short_turntables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two pictures, for tests of other things."""
    monkeypatch.setattr(model3d, "write_model", lambda gaussians, _, *rest: write_model(gaussians, 2, *rest))


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> Path:
    return tiny_base.parent / "pipeline"


@pytest.fixture
def pictures(tiny_manifest: Manifest, tmp_path: Path) -> Path:
    """A folder of pictures of three animals."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, name in enumerate(tiny_manifest.train[:3]):
        shutil.copy(tiny_manifest.sample(name).files[0], folder / f"mouse{i}.png")
    return folder


def table(out: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((out / "models.csv").read_text().splitlines()))


def test_a_folder_becomes_a_model_each_and_a_second_run_makes_only_what_is_missing(
    base: Path, pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run([pictures], out, base)
    assert [row["name"] for row in table(out)] == ["mouse0", "mouse1", "mouse2"]
    assert all(0 <= float(row["agreement"]) <= 1 and row["unit"] == "world units" for row in table(out))
    assert all(float(row["volume"]) > 0 and float(row["surface"]) > 0 for row in table(out))
    assert [len(row) for row in csv.reader((out / "embeddings.csv").read_text().splitlines())] == [1 + SHELLS * DEGREES] * 4
    assert (out / "mouse0" / "cut_out.png").is_file() and (out / "viewer.html").is_file(), "one page goes through all"
    assert "3 3D models" in (out / "index.html").read_text() and "http" not in re.sub(
        'base64,[^"]*', "", (out / "index.html").read_text()
    )
    before = {i: (out / f"mouse{i}" / "gaussians.ply").stat().st_mtime_ns for i in range(3)}
    (out / "mouse1" / "gaussians.ply").unlink()
    run([pictures], out, base)
    after = {i: (out / f"mouse{i}" / "gaussians.ply").stat().st_mtime_ns for i in range(3)}
    assert {i for i in range(3) if before[i] != after[i]} == {1}
    run([pictures / "mouse2.png"], tmp_path / "one", base, Choice(seed=3), extras=Extras(formats=("splat", "glb")))
    assert (tmp_path / "one" / "gaussians.ply").is_file(), "of one picture, the folder itself"
    assert (tmp_path / "one" / "animal.splat").is_file() and (tmp_path / "one" / "animal.glb").is_file()


@pytest.mark.usefixtures("short_turntables")
def test_one_picture_that_gives_no_model_costs_itself_alone(base: Path, pictures: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """As where all Gaussians of one animal are filtered away. The page leads to the others, whatever their names."""
    shaped = Reconstructor._shaped
    pictures = shutil.copytree(pictures, tmp_path / "in")
    (pictures / "mouse2.png").rename(pictures / "mouse #2 50%.png")
    third = framed(read_photo(pictures / "mouse1.png"), 32, None)

    def refusing(self: Reconstructor, images: torch.Tensor, *rest: Any) -> Model3D:
        if torch.equal(images[0], third):
            raise InputError("Nothing of this picture passes.")
        return shaped(self, images, *rest)

    monkeypatch.setattr(Reconstructor, "_shaped", refusing)
    with pytest.raises(InputError, match=r"1 of 3 pictures were left out, all others are done\. mouse1: Nothing of this picture"):
        run([pictures], tmp_path / "out", base)
    assert [row["name"] for row in table(tmp_path / "out")] == ["mouse0", "mouse #2 50%"]
    assert 'href="mouse%20%232%2050%25/viewer.html"' in (tmp_path / "out" / "index.html").read_text()


@pytest.mark.usefixtures("short_turntables")
def test_another_way_of_making_it_is_another_model_and_leaves_nothing_of_the_first(
    base: Path, pictures: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mvfl.stages.model3d.save_film", lambda _, path: path.write_bytes(b"a film"))
    out, photo = tmp_path / "one", [pictures / "mouse0.png"]
    run(photo, out, base, extras=Extras(formats=("splat",)))
    first = (out / "gaussians.ply").read_bytes()
    run(photo, out, base, rig="facelift")
    assert (out / "gaussians.ply").read_bytes() != first, "other cameras are drawn"
    assert not (out / "animal.splat").exists() and (out / "cut_out.png").is_file()
    before = (out / "gaussians.ply").stat().st_mtime_ns
    run(photo, out, base, rig="facelift", extras=Extras(film=True))
    assert (out / "turntable.mp4").is_file() and (out / "gaussians.ply").stat().st_mtime_ns != before
    with pytest.raises(InputError, match="--rig is of pictures whose cameras are not known"):
        run([tiny_data], out, base, rig="facelift")


def test_the_figures_are_written_for_nwb_too(base: Path, pictures: Path, tmp_path: Path) -> None:
    (pictures / "mouse2.png").rename(pictures / "mouse_000017.png")
    began = datetime(2026, 3, 1, 10, tzinfo=UTC)
    run([pictures], tmp_path / "out", base, extras=Extras(recorded=began))
    with NWBHDF5IO(str(tmp_path / "out" / "models.nwb"), "r") as file:
        content = file.read()
        rows = content.processing["behavior"]["models"].to_dataframe()
        assert content.session_start_time == began and "not known" not in content.session_description
    assert list(rows["frame"]) == [0, 1, 17] and list(rows["source"]) == ["mouse0", "mouse1", "mouse_000017"]
    assert [float(v) for v in rows["volume"]] == [float(row["volume"]) for row in table(tmp_path / "out")]
    assert len(rows["embedding"][0]) == SHELLS * DEGREES


def test_pictures_that_show_nothing_are_left_out_and_named_and_the_others_are_done(
    base: Path, pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    Image.fromarray(np.full((32, 32, 3), 255, np.uint8)).save(pictures / "blank.png")
    Image.fromarray(np.full((32, 32, 3), 90, np.uint8)).save(pictures / "uncut.jpg")
    (pictures / "mouse9.png").write_bytes(b"\x89PNG")
    Image.open(pictures / "mouse0.png").resize((32, 20)).save(pictures / "oblong.png")
    os.mkfifo(pictures / "pipe.png")
    with pytest.raises(InputError, match="5 of 8 pictures were left out, all others are done") as said:
        run([pictures], out, base)
    for name in ("blank: ", "uncut: ", "mouse9: ", "oblong: ", "pipe: "):
        assert name in str(said.value)
    assert [row["name"] for row in table(out)] == ["mouse0", "mouse1", "mouse2"]
    assert "5 left out" in (out / "index.html").read_text() and "it must be square" in (out / "index.html").read_text()
    with pytest.raises(InputError, match=r"blank.png shows no animal"):
        run([pictures / "blank.png"], tmp_path / "one", base)


def test_of_several_elevations_of_the_camera_the_one_that_fits_best_is_kept(base: Path, pictures: Path, tmp_path: Path) -> None:
    run([pictures / "mouse0.png"], tmp_path / "out", base, Choice(elevations=(5.0, 40.0)))
    (row,) = table(tmp_path / "out")
    assert float(row["elevation"]) in (5.0, 40.0) and float(row["elevation_margin"]) >= 0
    alone = {}
    for elevation in (5.0, 40.0):
        run([pictures / "mouse0.png"], tmp_path / str(elevation), base, Choice(elevations=(elevation,)))
        (only,) = table(tmp_path / str(elevation))
        assert float(only["elevation"]) == elevation and only["elevation_margin"] == "", "nothing to compare it with"
        alone[elevation] = float(only["agreement"])
    assert float(row["agreement"]) == max(alone.values()) == alone[float(row["elevation"])]
    with pytest.raises(InputError, match="--elevations needs pictures whose camera is not known"):
        run([pictures / "mouse0.png"], tmp_path / "x", base, Choice(elevations=(5.0,), all_views=True))


def test_choices_that_contradict_each_other_are_refused(base: Path, pictures: Path, tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the cameras of samples and data sets are"):
        run([tiny_data], tmp_path / "x", base, Choice(elevations=(5.0,), every=4))
    for choice, message in (
        (Choice(cut=Cut(auto=True)), "--auto is of photos and videos"),
        (Choice(all_views=True, view=1), "--view names one camera and --all-views takes all"),
        (Choice(all_views=True, reframe=True), "--reframe is of single pictures"),
    ):
        with pytest.raises(InputError, match=message):
            run([tiny_data], tmp_path / "x", base, choice)
    with pytest.raises(InputError, match="--mask and --box each cut the animal out"):
        run([pictures / "mouse0.png"], tmp_path / "x", base, Choice(cut=Cut(mask=pictures / "mouse1.png", box=(0, 0, 9, 9))))
    with pytest.raises(InputError, match="--view 9 is not a view"):
        run([pictures], tmp_path / "x", base, Choice(view=9))


def test_in_a_box_the_outline_is_found_and_a_box_outside_is_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 4, (96, 96, 3))
    photo = np.full((96, 96, 3), (170, 150, 120)) + noise
    body = np.asarray(mouse())[..., 3] > 0
    photo[body] = np.array([60, 60, 66]) + noise[body]
    Image.fromarray(photo.clip(0, 255).astype(np.uint8)).save(tmp_path / "photo.png")
    found = read_photo(tmp_path / "photo.png", Cut(box=(10, 20, 76, 56)))[3].numpy() > 0.5
    assert (found & body).sum() / (found | body).sum() > 0.95
    for box in ((50, 20, 76, 56), (-1, 0, 50, 50), (0, 0, 96, 96), (10, 10, 4, 40)):
        with pytest.raises(InputError, match=r"must lie inside photo\.png, 96 x 96"):
            read_photo(tmp_path / "photo.png", Cut(box=box))


def bench(place: tuple[int, int]) -> np.ndarray:
    """A dark animal on a lighter bench of 160 x 120 pixels; column and row of its corner."""
    noise = np.random.default_rng(place[0]).normal(0, 4, (120, 160, 3))
    photo = np.full((120, 160, 3), (170, 150, 120)) + noise
    body = np.asarray(mouse(size=72))[..., 3] > 0
    part = photo[place[1] : place[1] + 72, place[0] : place[0] + 72]
    part[body] = np.array([60, 60, 66]) + noise[:72, :72][body]
    return photo.clip(0, 255).astype(np.uint8)


def test_an_animal_that_is_not_cut_out_is_looked_for(tmp_path: Path) -> None:
    Image.fromarray(bench((50, 30))).save(tmp_path / "photo.png")
    body = np.zeros((120, 160), bool)
    body[30:102, 50:122] = np.asarray(mouse(size=72))[..., 3] > 0
    found = read_photo(tmp_path / "photo.png", Cut(auto=True))[3].numpy() > 0.5
    assert (found & body).sum() / (found | body).sum() > 0.9
    Image.fromarray(np.full((120, 160, 3), 150, np.uint8)).save(tmp_path / "empty.png")
    with pytest.raises(InputError, match=r"Nothing in empty\.png stands out as an animal"):
        read_photo(tmp_path / "empty.png", Cut(auto=True))


@pytest.mark.parametrize("edge", ["top", "bottom"])
def test_a_strip_along_the_border_is_no_animal(tmp_path: Path, edge: str) -> None:
    """As a cage's wall: no outline can be drawn about it, and the next patch is tried."""
    photo = np.random.default_rng(0).normal(150, 4, (480, 640, 3)).clip(0, 255).astype(np.uint8)
    photo[: 6 if edge == "top" else None][-6:] = 250
    Image.fromarray(photo).save(tmp_path / "wall.png")
    with pytest.raises(InputError, match=r"Nothing in wall\.png stands out as an animal"):
        read_photo(tmp_path / "wall.png", Cut(auto=True))


def test_in_a_video_what_moves_is_the_animal(base: Path, tmp_path: Path) -> None:
    """Before a bench on which another dark thing stands still."""
    with av.open(str(tmp_path / "walk.mkv"), "w") as film:
        stream = film.add_stream("ffv1", rate=10)
        stream.width, stream.height = 160, 120
        for i in range(5):
            frame = bench((5 + 20 * i, 40))
            frame[4:36, 120:158] = 20
            film.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        film.mux(stream.encode())
    with pytest.raises(InputError, match="no alpha channel and no white background"):
        run([tmp_path / "walk.mkv"], tmp_path / "x", base, Choice(reframe=True))
    run([tmp_path / "walk.mkv"], tmp_path / "out", base, Choice(cut=Cut(auto=True), reframe=True))
    for i in range(5):
        cut = np.asarray(Image.open(tmp_path / "out" / f"walk_{i:06d}" / "cut_out.png").convert("L"))
        column = np.nonzero(cut < 128)[1].mean()
        assert column == pytest.approx(5 + 20 * i + 36, abs=4), "it walked from left to right"


def test_samples_are_drawn_with_their_own_cameras_or_go_straight_to_3d(base: Path, tiny_data: Path, tmp_path: Path) -> None:
    run([tiny_data], tmp_path / "one", base, Choice(view=2, every=4))
    run([tiny_data], tmp_path / "all", base, Choice(all_views=True, every=4))
    assert len(table(tmp_path / "one")) == len(table(tmp_path / "all")) == 2
    sample = Manifest.read(tiny_data).root / "sample_000001"
    run([sample], tmp_path / "folder", base, Choice(all_views=True))
    given = [np.asarray(Image.open(tmp_path / "folder" / "sample_000001" / "views" / f"cam_{v:03d}.png")) for v in range(6)]
    recorded = [view_pictures(Manifest.read(tiny_data), "sample_000001")[v] for v in range(6)]
    for picture, rgba in zip(given, recorded, strict=True):
        np.testing.assert_allclose(picture / 255, (rgba[:3] * rgba[3:] + 1 - rgba[3:]).permute(1, 2, 0), atol=0.01)
    with pytest.raises(InputError, match="--all-views takes sample folders"):
        run([sample / "images" / "cam_000.png"], tmp_path / "x", base, Choice(all_views=True))


def test_a_video_on_white_becomes_a_model_per_frame(base: Path, pictures: Path, tmp_path: Path) -> None:
    with av.open(str(tmp_path / "walk.mkv"), "w") as film:
        stream = film.add_stream("ffv1", rate=10)
        stream.width = stream.height = 32
        for i in (0, 1, 2):
            rgba = Image.open(pictures / f"mouse{i}.png").convert("RGBA")
            white = Image.new("RGBA", rgba.size, "white")
            white.alpha_composite(rgba)
            film.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(white.convert("RGB")), format="rgb24")))
        film.mux(stream.encode())
    run([tmp_path / "walk.mkv"], tmp_path / "out", base, Choice(every=2))
    assert [row["name"] for row in table(tmp_path / "out")] == ["walk_000000", "walk_000002"]


def test_pictures_of_one_name_and_empty_folders_are_said(base: Path, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no pictures in there"):
        run([tmp_path / "empty"], tmp_path / "out", base)
    with pytest.raises(InputError, match="Two pictures are called mouse0"):
        run([pictures, pictures / "mouse0.png"], tmp_path / "out", base)


def test_an_oblong_photo_is_reframed_for_a_base_too(base: Path, pictures: Path, tmp_path: Path) -> None:
    Image.open(pictures / "mouse0.png").resize((32, 20)).save(tmp_path / "oblong.png")
    run([tmp_path / "oblong.png"], tmp_path / "out", base, Choice(reframe=True))
    seen = Image.open(tmp_path / "out" / "views" / "cam_000.png")
    dark = np.asarray(seen.convert("L")) < 240
    assert seen.size == (32, 32) and 0.4 < dark.mean() ** 0.5 < 0.75, "as large as in the published pictures"


def test_filters_leave_out_what_is_faint_or_outside(base: Path, pictures: Path, tmp_path: Path) -> None:
    def kept(**filters: Any) -> Gaussians:
        run([pictures / "mouse0.png"], tmp_path / str(filters), base, Choice(filters=Filters(**filters)))
        return load_ply(tmp_path / str(filters) / "gaussians.ply")

    everything, clear = kept(), kept(min_opacity=0.1)
    assert 0 < len(clear) < len(everything) and float(clear.opacities.min()) > 0.1
    inside = kept(box=(-0.2, 0.9, -0.9, 0.9, -0.9, 0.9))
    assert 0 < len(inside) < len(everything) and float(inside.xyz[:, 0].min()) >= -0.2
    with pytest.raises(InputError, match="Nothing of this picture passes --min-opacity"):
        kept(min_opacity=0.999)


def test_from_python_a_model_can_be_seen_from_any_camera(base: Path, tiny_manifest: Manifest) -> None:
    made = Reconstructor.load(base)
    rgba = view_pictures(tiny_manifest, tiny_manifest.val[0])[:1]
    (model,) = made(rgba[:, :3] * rgba[:, 3:] + 1 - rgba[:, 3:], view=3)
    seen = model.render([orbit_camera(40, 60, size=48), orbit_camera(200, -5, size=48)])
    assert torch.equal(model.render(orbit_camera(200, -5, size=48))[0], seen[1])
    assert seen.shape == (2, 3, 48, 48) and model.reference == 3 and 0 <= model.agreement <= 1
    torch.testing.assert_close(model.views[3], rgba[0, :3] * rgba[0, 3:] + 1 - rgba[0, 3:], atol=0.003, rtol=0)


def test_length_width_and_height_are_those_of_the_animal_however_it_lies() -> None:
    angle = math.radians(35)
    turn = torch.tensor([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1.0]])
    box = (torch.rand(20000, 3, generator=torch.Generator().manual_seed(0)) - 0.5) * torch.tensor([0.8, 0.4, 0.2])
    n = len(box)
    gaussians = Gaussians(box @ turn.T + 0.1, torch.zeros(n, 1, 3), torch.zeros(n, 3), torch.ones(n, 4), torch.ones(n, 1))
    model = Model3D(gaussians, torch.ones(1, 3, 8, 8), [orbit_camera(0, 0, size=8)], 0, millimetres=100.0)
    assert model.extent == pytest.approx((80, 40, 20), rel=0.05)


def mouse(mode: str = "RGBA", size: int = 96) -> Image.Image:
    """A dark ellipse on nothing, or on white."""
    y, x = np.mgrid[:size, :size] + 0.5
    body = ((x - size / 2) / (0.35 * size)) ** 2 + ((y - size / 2) / (0.2 * size)) ** 2 < 1
    rgba = np.zeros((size, size, 4), np.uint8)
    rgba[body] = (90, 80, 70, 255)
    image = Image.fromarray(rgba)
    if mode == "RGBA":
        return image
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image)
    return white.convert(mode if mode != "I;16" else "L")


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        *((mode, ".png") for mode in ("RGBA", "RGB", "L", "LA", "P", "1", "I;16")),
        *((mode, ".tif") for mode in ("RGBA", "RGB", "L", "CMYK", "I;16")),
        *((mode, ".jpg") for mode in ("RGB", "L", "CMYK")),
        *((mode, ".webp") for mode in ("RGBA", "RGB")),
        *((mode, ".bmp") for mode in ("RGB", "L", "P")),
    ],
)
def test_ordinary_pictures_of_every_kind_show_the_same_animal(mode: str, suffix: str, tmp_path: Path) -> None:
    image = mouse(mode) if mode != "1" else mouse("L").convert("1", dither=Image.Dither.NONE)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    image.save(tmp_path / f"mouse{suffix}")
    rgba = read_photo(tmp_path / f"mouse{suffix}")
    assert float((rgba[3] > 0.5).sum()) == pytest.approx(math.pi * 0.35 * 0.2 * 96**2, rel=0.05), "the outline"
    if mode != "1":
        assert float(rgba[:3, 48, 48].mean()) == pytest.approx(80 / 255, abs=0.06), "its grey: 16 bits do not vanish"


def test_what_may_spoil_a_picture_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(pixels: np.ndarray) -> str:
        Image.fromarray(pixels).save(tmp_path / "x.png")
        read_photo(tmp_path / "x.png")
        return capsys.readouterr().err

    whole = np.asarray(mouse())
    assert said(whole) == ""
    two = np.zeros((96, 200, 4), np.uint8)
    two[:, :96] = whole
    two[30:60, 120:150] = (10, 10, 10, 255)
    assert "a second animal or a shadow" in said(two)
    assert read_photo(tmp_path / "x.png")[3, 45, 135] == 0 and read_photo(tmp_path / "x.png")[3, 48, 48] == 1, "the largest alone"
    assert "touches the border" in said(whole[:, 30:])
    assert "too few to show what it is" in said(np.asarray(mouse(size=40)))


def test_a_mask_of_a_person_cuts_the_animal_out(tmp_path: Path) -> None:
    Image.fromarray(np.full((96, 96, 3), 120, np.uint8)).save(tmp_path / "photo.jpg")
    mouse().getchannel("A").save(tmp_path / "mask.png")
    rgba = read_photo(tmp_path / "photo.jpg", Cut(mask=tmp_path / "mask.png"))
    assert rgba[3, 48, 48] == 1 and rgba[3, 2, 2] == 0
    with pytest.raises(InputError, match="no alpha channel and no white background"):
        read_photo(tmp_path / "photo.jpg")
    mouse(size=64).getchannel("A").save(tmp_path / "mask.png")
    with pytest.raises(InputError, match=r"is 64 x 64 pixels, .* they must be equal"):
        read_photo(tmp_path / "photo.jpg", Cut(mask=tmp_path / "mask.png"))


@pytest.mark.parametrize("length", [0.1, 0.6, 1.1])
def test_a_turntable_is_filled_by_the_animal_and_cuts_nothing_off(length: float) -> None:
    along = torch.linspace(-length / 2, length / 2, 400)
    n = len(along)
    xyz = torch.stack([along, 0.1 * along, 0 * along], 1)
    stick = Gaussians(xyz, torch.zeros(n, 1, 3), torch.zeros(n, 3), torch.ones(n, 4), torch.ones(n, 1))
    filled = filled_by(stick, turntable(12, 20.0, 128))
    c2w, intrinsics = camera_tensors(filled)
    local = torch.einsum("vij,nj->vni", torch.linalg.inv(c2w)[:, :3, :3], xyz) + torch.linalg.inv(c2w)[:, None, :3, 3]
    column = intrinsics[:, None, 0] * local[..., 0] / local[..., 2] + intrinsics[:, None, 2]
    assert column.min() > 0 and column.max() < 128, "nothing is cut off"
    assert (column.max() - column.min()) > 0.6 * 128 or length < 0.2, "and it is large"
