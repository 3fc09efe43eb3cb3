"""Sample folders, manifests, latents: what is broken is named, nothing is replaced in silence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import parity_file, parity_tensors
from PIL import Image

from mvfl.cli import main
from mvfl.config.schema import Augmentation, FolderDataset, RodentDataset
from mvfl.data.folder import block_split, check_folder
from mvfl.data.latents import open_cache, tinted
from mvfl.data.render import render_dataset
from mvfl.data.samples import BACKGROUND_LEVEL, Manifest, composite, evenly, read_manifest, read_rgba, rgba_tensor
from mvfl.geometry.cameras import CameraError
from mvfl.runtime.files import InputError


@pytest.fixture
def recording(tmp_path: Path, tiny_manifest: Manifest) -> FolderDataset:
    """A folder of four samples as a user would bring it."""
    for name in (*tiny_manifest.train, tiny_manifest.val[0]):
        shutil.copytree(tiny_manifest.root / name, tmp_path / "recording" / name)
    return FolderDataset(
        kind="folder", path=tmp_path / "recording", rig="ring60", image_size=32, extra_views=1, val_fraction=0.2, gap=1,
        max_reprojection_px=40,  # 32 px pictures: a pixel is 16 px of 512
    )  # fmt: skip


def edit_cameras(recording: FolderDataset, change) -> None:
    path = recording.path / "sample_000001" / "opencv_cameras.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_a_good_recording_is_split_by_time_with_a_gap(recording: FolderDataset, tmp_path: Path) -> None:
    manifest = check_folder("mouse", recording, tmp_path / "out")
    assert manifest.train == ["sample_000000", "sample_000001", "sample_000002"]
    assert manifest.val == ["sample_000004"]
    again = read_manifest(tmp_path / "out" / "manifest.json")
    assert (again.data_hash, again.rig.hash) == (manifest.data_hash, manifest.rig.hash)


def test_the_split_keeps_blocks_apart() -> None:
    names = [f"{i:03d}" for i in range(100)]
    train, val = block_split(names, 0.1, 5)
    assert train[-1] == "084" and val[0] == "090" and len(val) == 10
    with pytest.raises(InputError, match="too few"):
        block_split(names[:3], 0.3, 5)


def test_a_missing_picture_is_named(recording: FolderDataset, tmp_path: Path) -> None:
    (recording.path / "sample_000001" / "images" / "cam_003.png").unlink()
    with pytest.raises(InputError, match=r"sample_000001/images/cam_003\.png does not exist; restore"):
        check_folder("mouse", recording, tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_truncated_png_is_named(recording: FolderDataset, tmp_path: Path) -> None:
    path = recording.path / "sample_000001" / "images" / "cam_003.png"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=r"cam_003\.png cannot be read as a picture .* copy it again"):
        check_folder("mouse", recording, tmp_path / "out")


def test_an_empty_alpha_channel_is_named(recording: FolderDataset, tmp_path: Path) -> None:
    path = recording.path / "sample_000001" / "images" / "cam_003.png"
    Image.fromarray(np.zeros((32, 32, 4), np.uint8)).save(path)
    with pytest.raises(InputError, match=r"cam_003\.png shows no animal: its alpha channel is empty"):
        check_folder("mouse", recording, tmp_path / "out")


def test_a_mirrored_camera_file_is_named(recording: FolderDataset, tmp_path: Path) -> None:
    def mirror(data: dict) -> None:
        data["frames"][2]["w2c"][0] = [-v for v in data["frames"][2]["w2c"][0]]

    edit_cameras(recording, mirror)
    with pytest.raises(CameraError, match=r"sample_000001/opencv_cameras\.json, view 2: det R = -1\.000"):
        check_folder("mouse", recording, tmp_path / "out")


def test_a_dropped_view_is_refused(recording: FolderDataset, tmp_path: Path) -> None:
    edit_cameras(recording, lambda data: data.update(frames=data["frames"][:5]))
    with pytest.raises(InputError, match="holds 5 frames, expected 6"):
        check_folder("mouse", recording, tmp_path / "out")


def test_cameras_of_another_rig_are_refused(recording: FolderDataset, tmp_path: Path) -> None:
    other = recording.model_copy(update={"rig": "markerless_mouse_1"})
    with pytest.raises(InputError, match="cameras differ from rig 'markerless_mouse_1'"):
        check_folder("mouse", other, tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w2c, frame: [v * 123 for v in w2c], "12200.0% in distance"),
        (lambda w2c, frame: frame.update(cx=frame["cx"] + 8) or w2c, "25.0% of the width in the principal point"),
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
    with pytest.raises(InputError, match="do not belong to their cameras"):
        check_folder("mouse", large_folder(tmp_path / "mixed"), tmp_path / "out")


def test_animals_cut_off_at_the_border_are_refused(larger: Path, tmp_path: Path) -> None:
    shutil.copytree(larger, tmp_path / "cropped")
    for file in (tmp_path / "cropped").glob("*/images/*.png"):
        picture = Image.open(file)
        left, top, right, bottom = picture.getchannel("A").getbbox()
        picture.crop((left, top, right, bottom)).resize((128, 128)).save(file)
    with pytest.raises(InputError, match=r"In \d+ of 36 pictures the animal touches the border"):
        check_folder("mouse", large_folder(tmp_path / "cropped"), tmp_path / "out")


def test_an_opaque_picture_over_white_gets_the_mask_of_the_same_picture_with_alpha(larger: Path, tmp_path: Path) -> None:
    file = larger / "sample_000000" / "images" / "cam_000.png"
    cut = read_rgba(file, 128)
    white = Image.new("RGBA", (128, 128), "white")
    white.alpha_composite(Image.open(file).convert("RGBA"))
    white.convert("RGB").save(tmp_path / "opaque.png")
    seen = read_rgba(tmp_path / "opaque.png", 128)
    a, b = cut[..., 3] > 127, seen[..., 3] > 127
    assert (a & b).sum() / (a | b).sum() > 0.9
    Image.new("RGB", (128, 128), (90, 60, 30)).save(tmp_path / "brown.png")
    with pytest.raises(InputError, match="no alpha channel and no white background"):
        read_rgba(tmp_path / "brown.png", 128)


def test_chosen_samples_are_spread_over_the_recording() -> None:
    names = [f"{i:03d}" for i in range(100)]
    assert evenly(names, 4) == ["000", "033", "066", "099"] and evenly(names, 500) == names


@pytest.mark.parametrize("fault", ["missing", "truncated", "mirrored", "dropped view", "empty alpha"])
def test_the_command_ends_with_a_sentence_and_status_1(
    fault: str, recording: FolderDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
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
    arguments = ["data", "--name", "mouse", "--settings", recording.model_dump_json(), "--out", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", ["mvfl", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    message = capsys.readouterr().err
    assert ended.value.code == 1 and "Error: " in message and "sample_000001" in message and "Traceback" not in message
    assert not list((tmp_path / "out").glob("*"))


def test_broken_json_and_a_missing_folder_are_named(recording: FolderDataset, tmp_path: Path) -> None:
    (recording.path / "sample_000001" / "opencv_cameras.json").write_text("{")
    with pytest.raises(InputError, match="is not valid JSON"):
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
    arguments = ["--name", "x", "--settings", settings.model_dump_json(), "--out", str(tmp_path / "c")]
    monkeypatch.setattr("sys.argv", ["mvfl", "data", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0 and read_manifest(tmp_path / "c" / "manifest.json").data_hash == hashes[0]
    assert not list((tmp_path / "c").glob(".*"))

    shutil.rmtree(tmp_path / "c")
    monkeypatch.setattr("mvfl.data.render.tracked", killed)
    with pytest.raises(KeyboardInterrupt):
        render_dataset("x", settings, tmp_path / "c", 1)
    assert list((tmp_path / "c").iterdir()) == []


@pytest.mark.parametrize("background", ["white", "black", "gray"])
def test_compositing_is_that_of_the_original_loader(background: str, tmp_path: Path) -> None:
    stored = parity_tensors("data_tiny/datasets.safetensors")
    pictures = stored["rgba_u8"][:6].numpy()
    keys = [k for k in stored if k.startswith(f"mv.{background}.")]
    assert keys
    for key in keys:
        wanted = stored[key]
        if wanted.ndim != 4:
            continue
        size = wanted.shape[-1]
        read = []
        for i, picture in enumerate(pictures[: len(wanted)]):
            Image.fromarray(picture).save(tmp_path / f"{i}.png")
            read.append(read_rgba(tmp_path / f"{i}.png", size))
        got = composite(rgba_tensor(read), BACKGROUND_LEVEL[background])  # type: ignore[index]
        torch.testing.assert_close(got, wanted, atol=1e-6, rtol=0)


def test_a_tint_leaves_the_background_alone() -> None:
    rgba = torch.rand(6, 4, 8, 8)
    rgba[:, 3] = (rgba[:, 3] > 0.5).float()
    out = composite(tinted(rgba, 1.1, 0.9), 1.0)
    outside = rgba[:, 3:].expand(-1, 3, -1, -1) == 0
    assert torch.equal(out[outside], torch.ones_like(out[outside]))
    torch.testing.assert_close(tinted(rgba, 1.0, 1.0), rgba)


def test_the_latent_cache_holds_every_variant(tiny_latents: Path) -> None:
    train, val = open_cache(tiny_latents, "train"), open_cache(tiny_latents, "val")
    assert train.moments.shape == (4, 2, 6, 8, 16, 16) and train.embeds.shape == (4, 2, 6, 64)
    assert val.variants == 1 and len(val) == 2
    assert not np.array_equal(train.moments[:, 0], train.moments[:, 1])


def test_tints_come_from_the_seed_alone() -> None:
    from mvfl.data.latents import _variants

    a = Augmentation(backgrounds=["white", "gray"], tints=3)
    assert _variants(a, 1, 5) == _variants(a, 1, 5) != _variants(a, 2, 5)
    assert _variants(a, 1, 5)[:2] == [(1.0, 1.0, 1.0), (0.5, 1.0, 1.0)]


@pytest.mark.parametrize("name", ["published", "overlap_unsorted", "plain"])
def test_the_view_choice_of_the_original_loader_is_repeated_from_its_seed(name: str) -> None:
    import random

    from mvfl.gslrm.view_choice import choose_views, paste_over

    table = json.loads(parity_file("data_tiny/datasets.json").read_text())[name]
    stored = parity_tensors("data_tiny/datasets.safetensors")
    w2c = stored["gs.cameras.w2c"].numpy()
    positions = np.linalg.inv(w2c)[:, :3, 3]
    settings = table["overrides"]
    choice = choose_views(
        positions, table["num_views"], table["num_input_views"],
        settings.get("training.dataset.maximize_view_overlap", True), settings.get("inference", True),
        random.Random(table["python_random_seed"]),
    )  # fmt: skip
    assert [*choice.inputs, *choice.targets] == table["chosen"]
    grey = 127 if settings.get("training.dataset.background_color") == "gray" else 255
    keep_alpha = not settings.get("training.dataset.remove_alpha", False)
    for i, view in enumerate(table["chosen"]):
        picture = Image.fromarray(stored["rgba_u8"][view].numpy())
        got = paste_over(picture, table["image_size"], grey, keep_alpha)
        torch.testing.assert_close(got, stored[f"gs.{name}.image"][i], atol=1e-6, rtol=0)


def test_base_check_says_what_fits_and_what_is_missing(tiny_base: Path, tmp_path: Path) -> None:
    from mvfl.base.check import check_base

    pipeline = tiny_base.parent / "pipeline"
    assert all(f.good for f in check_base(pipeline))
    shutil.copytree(pipeline, tmp_path / "half")
    (tmp_path / "half" / "tokenizer" / "tokenizer.json").unlink()
    (tmp_path / "half" / "tokenizer" / "merges.txt").unlink()
    config = tmp_path / "half" / "text_encoder" / "config.json"
    config.write_text(config.read_text().replace('"hidden_size": 64', '"hidden_size": 768'))
    bad = {f.part: f.text for f in check_base(tmp_path / "half") if not f.good}
    assert bad == {"tokenizer": "missing: tokenizer/merges.txt", "prompt width": "text encoder 768, UNet 64"}
