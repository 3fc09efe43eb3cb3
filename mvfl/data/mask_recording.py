"""Masks for a whole recording: one PNG file per camera and frame, and pictures to judge them by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from mvfl.data.mask_making import BACKGROUND_FRAMES, Outliner, Picture, agreeing, background, patches
from mvfl.data.masks import read_mask
from mvfl.data.sam import SamOutliner
from mvfl.data.videos import ahead, read_frames
from mvfl.geometry.lens import LensCamera
from mvfl.records.manifest import evenly
from mvfl.runtime.files import InputError, written_aside
from mvfl.runtime.progress import Bar, say

LEARNED_FROM = 8  # frames from which the colours of animal and surroundings are learned
SHOWN = 4  # frames of an overlay picture
SHOWN_SIDE = 360  # pixels
Outline = Callable[[Picture, np.ndarray], np.ndarray]


def mask_file(folder: Path, frame: int) -> Path:
    """Mask of a frame; its number is at the end of the name, as `MaskSource` reads it."""
    return folder / f"{frame:06d}.png"


def make_masks(
    cameras: Sequence[LensCamera], videos: Sequence[Path], frames: Sequence[int], out: Path, sam2: Path | None, workers: int
) -> list[Path]:
    """Find the animal in the wanted frames and write its masks; those that are there already stay.

    Args:
        cameras: calibrated; their agreement tells the animal from other bright or moving things.
        videos: one per camera.
        frames: numbers of the wanted frames.
        out: gets a folder of masks per camera, and `overlay_<camera>.png`.
        sam2: folder of SAM 2 weights in transformers' form; default: GrabCut.
        workers: threads.

    Returns:
        The folders.

    Raises:
        InputError: a video is damaged, or the animal is found nowhere.
    """
    folders = [out / camera.name for camera in cameras]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    looked = _spread(videos, frames)
    still = [background([pictures[f] for f in sorted(pictures)]) for pictures in looked]
    outlines = _outliners(cameras, looked, still, sam2)
    wanted = {f for f in frames if not all(mask_file(folder, f).is_file() for folder in folders)}
    if len(wanted) < len(frames):
        say(f"Masks of {len(frames) - len(wanted)} of {len(frames)} frames are there already.")
    if wanted:
        streams = [ahead(read_frames(video, wanted)) for video in videos]
        with Bar("masks", len(frames), start=len(frames) - len(wanted)) as bar, ThreadPoolExecutor(workers) as pool:
            for row in zip(*streams, strict=True):
                pictures = [picture for _, picture in row]
                masks = _masks_of(pictures, still, cameras, outlines, pool)
                for folder, mask in zip(folders, masks, strict=True):
                    with written_aside(mask_file(folder, row[0][0])) as temporary:
                        temporary.write_bytes(cv2.imencode(".png", mask)[1].tobytes())
                bar.update(bar.done + 1)
    for camera, folder, own in zip(cameras, folders, looked, strict=True):
        _overlay(out / f"overlay_{camera.name}.png", own, folder)
    say(f"Masks are in {out}; look at {out / 'overlay_*.png'} before anything is trained on them.")
    return folders


def _spread(videos: Sequence[Path], frames: Sequence[int]) -> list[dict[int, Picture]]:
    """Some of the wanted frames of each video, spread over the recording."""
    chosen = set(evenly(list(frames), BACKGROUND_FRAMES))
    with ThreadPoolExecutor(len(videos)) as pool:
        return list(pool.map(lambda video: dict(read_frames(video, chosen)), videos))


def _outliners(
    cameras: Sequence[LensCamera], looked: Sequence[dict[int, Picture]], still: Sequence[Picture], sam2: Path | None
) -> list[Outline]:
    """What finds outlines in each camera's pictures."""
    if sam2 is not None:
        shared = SamOutliner(sam2)
        return [shared] * len(cameras)
    hints: list[list[np.ndarray]] = [[] for _ in cameras]
    seen: list[list[Picture]] = [[] for _ in cameras]
    for frame in evenly(sorted(looked[0]), LEARNED_FROM):
        pictures = [own[frame] for own in looked]
        found = agreeing([patches(p, s) for p, s in zip(pictures, still, strict=True)], cameras)
        for view, patch in enumerate(found or []):
            hints[view].append(patch.mask)
            seen[view].append(pictures[view])
    if not hints[0]:
        raise InputError(
            "No animal was found by its movement or its contrast in a way that the cameras agree on. Give masks of your own, name "
            "SAM 2 weights, or look whether the calibration belongs to the videos."
        )
    return [Outliner(s, h) for s, h in zip(seen, hints, strict=True)]


def _masks_of(
    pictures: Sequence[Picture], still: Sequence[Picture], cameras: Sequence[LensCamera], outlines: Sequence[Outline],
    pool: ThreadPoolExecutor,
) -> list[np.ndarray]:  # fmt: skip
    """Masks of one frame; all empty where the cameras agree on no animal."""
    found = agreeing(list(pool.map(patches, pictures, still)), cameras)
    if found is None:
        return [np.zeros(p.shape[:2], np.uint8) for p in pictures]
    return list(pool.map(lambda outline, picture, patch: outline(picture, patch.mask), outlines, pictures, found))


def _overlay(path: Path, pictures: dict[int, Picture], folder: Path) -> None:
    """Some frames, cut out about the animal, with the outline in red."""
    tiles = []
    for frame in evenly(sorted(pictures), SHOWN):
        mask = read_mask(mask_file(folder, frame))
        picture = pictures[frame].copy()
        picture[cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0] = (255, 40, 40)
        x, y, width, height = cv2.boundingRect(mask)
        side = int(1.6 * max(width, height, 50))
        left, top = x + width // 2 - side // 2, y + height // 2 - side // 2
        padded = cv2.copyMakeBorder(picture, side, side, side, side, cv2.BORDER_CONSTANT)
        tiles.append(cv2.resize(padded[top + side : top + 2 * side, left + side : left + 2 * side], (SHOWN_SIDE, SHOWN_SIDE)))
    with written_aside(path) as temporary:
        temporary.write_bytes(cv2.imencode(".png", np.concatenate(tiles, 1)[..., ::-1])[1].tobytes())
