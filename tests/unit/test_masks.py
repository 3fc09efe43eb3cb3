"""Masks as labs have them are cleaned by stated rules; where there are none, they are made of the videos."""

from __future__ import annotations

from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image
from recordings import film, rig_of

from mvfl.data.mask_recording import make_masks, mask_file
from mvfl.data.masks import MaskSource, clean, read_mask
from mvfl.data.rodent.sampling import make_sample
from mvfl.data.silhouettes import Silhouette
from mvfl.geometry.lens import LensCamera
from mvfl.runtime.files import InputError


def disc(radius: int = 30, side: int = 200, centre: tuple[int, int] = (90, 100)) -> np.ndarray:
    return cv2.circle(np.zeros((side, side), np.uint8), centre, radius, 255, -1)


def whole(silhouette: Silhouette | None) -> np.ndarray:
    assert silhouette is not None
    out = np.zeros(silhouette.size[::-1], np.uint8)
    silhouette.draw(out, 255)
    return out


def test_salt_small_holes_and_shadows_beside_the_animal_go() -> None:
    mask, rng = disc(), np.random.default_rng(0)
    dirty = mask.copy()
    dirty[rng.uniform(size=dirty.shape) < 0.004] = 255
    cv2.circle(dirty, (90, 100), 3, 0, -1)
    cv2.ellipse(dirty, (150, 150), (25, 8), 0, 0, 360, 200, -1)
    cleaned = whole(clean(dirty))
    assert np.count_nonzero(cleaned != mask) < 0.02 * np.count_nonzero(mask)
    assert not cleaned[140:160, 130:175].any(), "the shadow went"


def test_a_gap_of_a_few_pixels_does_not_part_the_tail_and_a_large_hole_stays() -> None:
    mask = disc()
    cv2.line(mask, (125, 100), (180, 100), 255, 3)
    mask[:, 140:143] = 0
    cv2.circle(mask, (90, 100), 12, 0, -1)
    cleaned = whole(clean(mask))
    assert cleaned[100, 170] == 255, "the tail beyond the cable"
    assert cleaned[100, 90] == 0, "seen through between tail and body"
    assert not cleaned[:, 140:143].any(), "nothing is invented in the gap"


@pytest.mark.parametrize("values", [(0, 1), (0, 255)])
def test_masks_of_0_and_1_and_of_0_and_255_are_the_same(values: tuple[int, int]) -> None:
    np.testing.assert_array_equal(whole(clean(np.where(disc() > 0, *values[::-1]).astype(np.uint8))), disc())


def test_soft_edges_are_cut_at_one_half() -> None:
    soft = cv2.GaussianBlur(disc(), (0, 0), 3)
    assert abs(np.count_nonzero(whole(clean(soft))) / np.count_nonzero(disc()) - 1) < 0.03


def test_an_empty_mask_is_nothing() -> None:
    assert clean(np.zeros((20, 20), np.uint8)) is None


def save(folder: Path, names: list[str]) -> Path:
    folder.mkdir()
    for number, name in enumerate(names):
        Image.fromarray(disc(centre=(60 + number, 100))).save(folder / name)
    return folder


def middles(source: MaskSource, wanted: set[int]) -> dict[int, int | None]:
    return {n: None if m is None else int(np.nonzero(m)[1].mean().round()) for n, m in source.read(wanted)}


def test_a_folder_holds_one_mask_per_frame_or_says_the_frame_in_the_name(tmp_path: Path) -> None:
    every = MaskSource(save(tmp_path / "a", [f"m{i}.png" for i in range(12)]), 12)
    assert every.size == (200, 200) and middles(every, {2, 9, 10, 11}) == {2: 62, 9: 69, 10: 70, 11: 71}, "10 comes after 9"
    some = MaskSource(save(tmp_path / "b", ["frame_0003.png", "frame_0010.png"]), 12)
    assert middles(some, {3, 4, 10}) == {3: 60, 4: None, 10: 61}
    with pytest.raises(InputError, match="holds 2 masks; the videos have 12 frames"):
        MaskSource(save(tmp_path / "c", ["first.png", "second.png"]), 12)
    (tmp_path / "d").mkdir()
    times = MaskSource(save(tmp_path / "e", ["1712.png", "1754.png", "1801.png"]), 3)
    assert middles(times, {0, 2}) == {0: 60, 2: 62}, "as many as frames, called by their times"
    steps = MaskSource(save(tmp_path / "g", ["10.png", "12.png", "14.png"]), 3)
    assert middles(steps, {0, 2}) == {0: 60, 2: 62}, "every second frame was exported, of the video, too"
    cameras = MaskSource(save(tmp_path / "f", ["a_cam1.png", "b_cam1.png"]), 2)
    assert middles(cameras, {0, 1}) == {0: 60, 1: 61}, "the number is the camera's"
    with pytest.raises(InputError, match="holds no mask pictures"):
        MaskSource(tmp_path / "d", 12)


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["0.png", "1.png", "3.png", "overlay.png"], r"holds overlay\.png among masks that are numbered"),
        (["0.png", "1.png", "3.png", "4.png"], "4 masks, numbered 0 to 4; the videos have 4 frames"),
        (["1.png", "2.png", "3.png"], "3 masks, numbered 1 to 3; .* the first one included"),
    ],
)
def test_masks_that_would_shift_against_the_pictures_are_refused(tmp_path: Path, names: list[str], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        MaskSource(save(tmp_path / "masks", names), 4)


def test_the_first_label_of_a_coloured_palette_is_the_animal(tmp_path: Path) -> None:
    """Tools that segment videos write palettes in which it is dark red."""
    labels = Image.fromarray((disc() > 0).astype(np.uint8), "P")
    labels.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    labels.save(tmp_path / "labels.png")
    assert np.array_equal(read_mask(tmp_path / "labels.png"), disc())
    grey = Image.fromarray(disc() // 2).convert("P")
    grey.save(tmp_path / "grey.png")
    assert read_mask(tmp_path / "grey.png").max() == 127, "half transparent is half transparent"


def test_a_mask_file_that_is_no_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"x\.png cannot be read as a picture"):
        read_mask(tmp_path / "x.png")


SIDE, FRAMES = 240, 6


def scene(seed: int, number: int, cameras: list[LensCamera], moves: bool) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Pictures and true masks: a white animal on a floor of bright chips."""
    where = np.array([0.35 * np.cos(number), 0.3 * np.sin(number), 0]) * moves
    pinholes = []
    for c in cameras:
        w2c = c.camera.w2c.copy()
        w2c[:3, 3] += w2c[:3, :3] @ where
        pinholes.append(type(c.camera)(c.camera.width, c.camera.height, c.camera.fx, c.camera.fy, c.camera.cx, c.camera.cy, w2c))
    drawn = make_sample((seed, 0 if not moves else number), pinholes, ["white"], ["stand"], 0.35, 0, 1, frame_cameras=len(cameras))
    pictures, masks = [], []
    for view, rgba in enumerate(drawn.pictures):
        rng = np.random.default_rng([seed, view])
        floor = cv2.GaussianBlur(rng.uniform(0, 110, (SIDE, SIDE)).astype(np.float32), (0, 0), 1.5)
        floor = np.clip(floor + np.random.default_rng([seed, view, number]).normal(0, 2, floor.shape), 0, 255)
        alpha = rgba[..., 3:].astype(np.float32) / 255
        pictures.append((rgba[..., :3] * alpha + floor[..., None] * (1 - alpha)).astype(np.uint8))
        masks.append(rgba[..., 3] > 127)
    return pictures, masks


@pytest.mark.parametrize("moves", [True, False], ids=["walks", "sits still"])
def test_masks_are_made_of_videos_alone(moves: bool, tmp_path: Path) -> None:
    cameras = [LensCamera(f"cam{i}", c) for i, c in enumerate(rig_of(2, 3, SIDE))]
    frames = [scene(4, n, cameras, moves) for n in range(FRAMES)]
    videos = []
    for view in range(3):
        videos.append(tmp_path / f"{view}.mkv")
        with av.open(str(videos[-1]), "w") as container:
            stream = container.add_stream("ffv1", rate=10)
            stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, "bgr0"
            for pictures, _ in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pictures[view], format="rgb24")))
            container.mux(stream.encode())
    folders = make_masks(cameras, videos, list(range(FRAMES)), tmp_path / "masks", None, 2)
    overlaps = []
    for number, (_, masks) in enumerate(frames):
        for folder, mask in zip(folders, masks, strict=True):
            made = read_mask(mask_file(folder, number)) > 127
            overlaps.append((made & mask).sum() / (made | mask).sum())
    assert np.mean(overlaps) > 0.8 and np.median(overlaps) > 0.85
    assert all((tmp_path / "masks" / f"overlay_cam{v}.png").is_file() for v in range(3))
    before = {f: f.stat().st_mtime_ns for folder in folders for f in folder.iterdir()}
    mask_file(folders[1], 3).unlink()
    make_masks(cameras, videos, list(range(FRAMES)), tmp_path / "masks", None, 2)
    changed = [f for f, t in before.items() if f.stat().st_mtime_ns != t]
    assert {f.name for f in changed} <= {"000003.png"} and mask_file(folders[1], 3).is_file(), "finished frames stay"


def test_sam_2_is_asked_for_the_box_of_the_patch(tmp_path: Path) -> None:
    """A tiny network of random weights: any mask, but of the picture's size and of one piece."""
    from transformers import Sam2Config, Sam2Model

    from mvfl.data.sam import SamOutliner

    backbone = {
        "hidden_size": 8, "embed_dim_per_stage": [8, 16, 32, 64], "num_attention_heads_per_stage": [1, 2, 4, 8],
        "blocks_per_stage": [1, 1, 2, 1], "image_size": [128, 128], "global_attention_blocks": [3], "window_size_per_stage": [8, 4, 4, 2],
        "window_positional_embedding_background_size": [4, 4],
    }  # fmt: skip
    vision = {"backbone_config": {"model_type": "sam2_hiera_det_model", **backbone}, "backbone_channel_list": [64, 32, 16, 8],
              "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]], "fpn_hidden_size": 32}  # fmt: skip
    config = Sam2Config(
        vision_config=vision, prompt_encoder_config={"hidden_size": 32, "image_size": 128, "patch_size": 16, "mask_input_channels": 4},
        mask_decoder_config={"hidden_size": 32, "mlp_dim": 32, "iou_head_hidden_dim": 32, "num_attention_heads": 2},
    )  # fmt: skip
    Sam2Model(config).save_pretrained(tmp_path)
    picture = np.repeat(disc()[..., None], 3, -1)
    mask = SamOutliner(tmp_path)(picture, disc() > 0)
    assert mask.shape == (200, 200) and set(np.unique(mask)) <= {0, 255}
    with pytest.raises(InputError, match=r"holds no config\.json"):
        SamOutliner(tmp_path / "nowhere")


def test_a_filmed_animal_covers_a_plausible_part_of_its_pictures() -> None:
    """The helper that other tests stand on: silhouettes of one body, whole, of the right size."""
    seen = film(3, 3, 2, side=96)
    for frame in seen.frames:
        assert all(100 < s.area < 3000 and not s.touches_border() for s in frame)
