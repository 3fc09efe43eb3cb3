"""Masks as labs have them: videos or folders of pictures, with soft edges, salt noise, holes and shadows; read and cleaned.

The rules, in this order: a pixel belongs to the animal above half of white (in pictures of 0 and 1: above 0). Gaps of up to
`GAP` pixels do not part an animal (a cable before the tail). Of the pieces that then remain, only the largest is the animal.
Holes smaller than `HOLE` of the animal are filled; larger ones (between tail and body) stay.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from mvfl.config.patterns import natural, visible
from mvfl.data.pictures import open_picture
from mvfl.data.silhouettes import Silhouette
from mvfl.data.videos import frame_count, read_frames, video_size
from mvfl.runtime.files import InputError

LEVEL = 127
GAP = 5
HOLE = 0.01


def clean(mask: UInt8[np.ndarray, "height width"]) -> Silhouette | None:
    """The animal of a mask by the rules above; None where the mask is empty."""
    level = 0 if mask.max() <= 1 else LEVEL
    binary = (mask > level).view(np.uint8)
    x, y, width, height = cv2.boundingRect(binary)
    if not width:
        return None
    # Only the part that holds something is looked at: masks are mostly empty.
    low, high = (max(0, x - GAP), max(0, y - GAP)), (x + width + GAP, y + height + GAP)
    part = binary[low[1] : high[1], low[0] : high[0]]
    closed = cv2.morphologyEx(part, cv2.MORPH_CLOSE, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (GAP, GAP)))
    _, labels, table, _ = cv2.connectedComponentsWithStats(closed, connectivity=8)
    largest = 1 + int(table[1:, cv2.CC_STAT_AREA].argmax())
    animal = ((labels == largest) & (part > 0)).view(np.uint8)
    full = np.zeros(mask.shape, np.uint8)
    full[low[1] : high[1], low[0] : high[0]] = _filled(animal)
    return Silhouette.of(full.view(bool))


def cleaned(mask: UInt8[np.ndarray, "height width"]) -> UInt8[np.ndarray, "height width"]:
    """The same as a mask: the animal 255, all else 0."""
    out, silhouette = np.zeros(mask.shape, np.uint8), clean(mask)
    if silhouette is not None:
        silhouette.draw(out, 255)
    return out


def _filled(animal: UInt8[np.ndarray, "height width"]) -> UInt8[np.ndarray, "height width"]:
    """Small holes filled."""
    padded = cv2.copyMakeBorder(animal, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    count, labels, table, _ = cv2.connectedComponentsWithStats(1 - padded, connectivity=4)
    limit = HOLE * animal.sum()
    for hole in range(1, count):
        if hole != labels[0, 0] and table[hole, cv2.CC_STAT_AREA] < limit:
            padded[labels == hole] = 1
    return padded[1:-1, 1:-1]


class MaskSource:
    """Masks of one camera.

    Args:
        path: a video, or a folder of PNG files in the order of the frames, or with their numbers at the end of their names.
        frames: that the videos have.

    Raises:
        InputError: missing, or another number of masks than of frames.
    """

    def __init__(self, path: Path, frames: int) -> None:
        self.path, self.frames = path, frames
        self.files: dict[int, Path] = _numbered(path, frames) if path.is_dir() else {}
        if not self.files and (count := frame_count(path)) != frames:
            raise InputError(f"{path} has {count} frames, the videos have {frames}: the mask belongs to another recording.")
        self.size = _picture_size(next(iter(self.files.values()))) if self.files else video_size(path)

    def read(self, wanted: set[int]) -> Iterator[tuple[int, UInt8[np.ndarray, "height width"] | None]]:
        """Grey masks of the wanted frames, in order; None where a folder has no file for a frame."""
        if not self.files:
            yield from read_frames(self.path, wanted, "gray")
            return
        for number in sorted(wanted):
            yield number, read_mask(self.files[number]) if number in self.files else None


def _numbered(folder: Path, frames: int) -> dict[int, Path]:
    """Mask files by frame."""
    files = sorted(
        (f for f in visible(folder) if f.suffix.lower() in (".png", ".tif", ".tiff", ".bmp")), key=lambda f: natural(f.name)
    )
    if not files:
        raise InputError(f"{folder} holds no mask pictures (.png); name a folder of them or a video.")
    ends = {f: re.search(r"(\d+)$", f.stem) for f in files}
    numbers = [int(e.group(1)) for e in ends.values() if e]
    named = len(set(numbers)) == len(numbers) > (len(files) > 1)  # else the number is something else, as a camera's
    if named and (strange := [f.name for f, e in ends.items() if not e]):
        raise InputError(f"{folder} holds {strange[0]} among masks that are numbered; move it away.")
    whole = named and len(set(np.diff(sorted(numbers)))) <= 1  # in equal steps
    times = named and max(numbers) - min(numbers) > 2 * len(numbers)  # names that are no numbers of frames
    if len(files) == frames and (not named or whole or times):
        return dict(enumerate(files))
    if named and max(numbers) < frames and not (min(numbers) == 1 and len(files) < frames):
        return dict(zip(numbers, files, strict=True))
    raise InputError(
        f"{folder} holds {len(files)} masks"
        + (f", numbered {min(numbers)} to {max(numbers)}" if named else "")
        + f"; the videos have {frames} frames: give as many masks as frames, or end their names with the number of the frame, from "
        "0 on, the first one included."
    )


def read_mask(path: Path) -> UInt8[np.ndarray, "height width"]:
    """A mask picture as one channel.

    Raises:
        InputError: no picture.
    """
    image = open_picture(path)
    if image.mode in ("P", "PA"):  # of labels, whose first object is often dark: every colour but black is the animal
        rgb = np.asarray(image.convert("RGB"))
        grey = (rgb.min(-1) == rgb.max(-1)).all()
        return np.ascontiguousarray(rgb[..., 0]) if grey else np.where(rgb.max(-1) > 0, 255, 0).astype(np.uint8)
    picture = np.asarray(image.convert("L") if image.mode in ("1", "LA") else image)
    if picture.ndim == 3:  # three equal channels; an alpha channel says nothing about the animal
        picture = picture[..., :3].max(-1)
    return picture if picture.dtype == np.uint8 else (picture > picture.max() // 2).astype(np.uint8)


def _picture_size(path: Path) -> tuple[int, int]:
    height, width = read_mask(path).shape
    return width, height
