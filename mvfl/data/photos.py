"""Ordinary pictures of one animal: how it is cut out of them, and what may spoil the result is said."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import ImageOps
from torch import Tensor

from mvfl.data.mask_making import Outliner, Patch, patches
from mvfl.data.masks import read_mask
from mvfl.data.pictures import MASK_THRESHOLD, eight_bit, open_picture, rgba_tensor, with_mask
from mvfl.data.sam import SamOutliner
from mvfl.runtime.files import InputError
from mvfl.runtime.progress import say
from mvfl.runtime.reading import named_errors

SECOND = 0.1  # share of the largest piece from which another piece is a second animal or a shadow, and not dust
GRABCUT_STEPS = 6
SMALL = 48  # pixels of the longer side below which an animal shows too little


Box = tuple[int, int, int, int]  # left, top, width, height in pixels


@dataclass(frozen=True)
class Cut:
    """How the animal is cut out; by default its alpha channel tells, or what differs from a white background.

    Attributes:
        mask: white = animal, of the picture's size.
        box: around the whole animal, in which its outline is found.
        auto: the animal is looked for: what moves in a video, or a compact patch that stands out from its surroundings.
        sam2: folder of SAM 2 weights that draw the outline in the box, or about what was found; default: GrabCut.
    """

    mask: Path | None = None
    box: Box | None = None
    auto: bool = False
    sam2: Path | None = None

    @property
    def given(self) -> bool:
        """Whether the picture's own alpha channel or background is not asked."""
        return self.mask is not None or self.box is not None or self.auto


BY_ALPHA = Cut()


def read_photo(path: Path, cut: Cut = BY_ALPHA) -> Float[Tensor, "4 height width"]:
    """Any picture as RGBA in 0..1, upright, with the largest piece of its animal alone.

    Args:
        path: of the picture: 8 or 16 bits, grey, colour, palette, CMYK; held as its camera notes.
        cut: how the animal is cut out.

    Raises:
        InputError: not a picture, or nothing in it, or a mask of another size, or a box outside.
    """
    pixels = read_pixels(path)
    if cut.mask is not None:
        alpha = read_mask(cut.mask)
        if alpha.shape != pixels.shape[:2]:
            sizes = [f"{array.shape[1]} x {array.shape[0]}" for array in (alpha, pixels)]
            raise InputError(f"{cut.mask} is {sizes[0]} pixels, {path} {sizes[1]}: they must be equal.")
        return cut_out(np.dstack([pixels[..., :3], alpha]), path.name)
    return cut_out(found_in(pixels[..., :3], cut, path.name) if cut.given else with_mask(pixels, path), path.name)


def read_pixels(path: Path) -> UInt8[np.ndarray, "height width 4"]:
    """Any picture as it is, upright, RGBA.

    Raises:
        InputError: not a picture.
    """
    with named_errors(path, "a picture", "save it again as PNG or JPEG"):
        return np.asarray(eight_bit(ImageOps.exif_transpose(open_picture(path))).convert("RGBA"))


def found_in(
    picture: UInt8[np.ndarray, "height width 3"], cut: Cut, name: str, still: UInt8[np.ndarray, "height width 3"] | None = None
) -> UInt8[np.ndarray, "height width 4"]:
    """A picture with the mask of the animal that was found in it.

    Args:
        picture: RGB.
        cut: with a box, or automatic.
        name: of the picture, for sentences.
        still: the background that all frames of a video share.

    Raises:
        InputError: nothing stands out, or a box outside.
    """
    picture = np.ascontiguousarray(picture)
    if cut.box is not None:
        _require_inside(cut.box, picture, name)
        left, top, width, height = cut.box
        corners = (left, top, left + width, top + height)
        alpha = _sam(cut.sam2).in_box(picture, corners) if cut.sam2 else outlined(picture, cut.box, name)
    else:
        alpha = _first_found(picture, patches(picture, still), cut, name)
    return np.dstack([picture, alpha])


def _first_found(
    picture: UInt8[np.ndarray, "height width 3"], candidates: Sequence[Patch], cut: Cut, name: str
) -> UInt8[np.ndarray, "height width"]:
    """The mask about the best patch that one can be drawn about."""
    for candidate in candidates:
        with contextlib.suppress(InputError):
            if (alpha := about(picture, candidate.mask, cut)).any():
                return alpha
    raise InputError(f"Nothing in {name} stands out as an animal; give --box or --mask.")


def about(
    picture: UInt8[np.ndarray, "height width 3"], patch: Bool[np.ndarray, "height width"], cut: Cut
) -> UInt8[np.ndarray, "height width"]:
    """The mask (0 or 255) of the animal that a patch belongs to."""
    outline = _sam(cut.sam2) if cut.sam2 else Outliner([picture], [patch])
    return outline(picture, patch)


@lru_cache(maxsize=1)
def _sam(folder: Path) -> SamOutliner:
    return SamOutliner(folder)


def _require_inside(box: Box, picture: UInt8[np.ndarray, "height width 3"], name: str) -> None:
    left, top, width, height = box
    inside = left >= 0 and top >= 0 and left + width <= picture.shape[1] and top + height <= picture.shape[0]
    if not inside or min(width, height) < 8 or (width, height) == picture.shape[1::-1]:
        raise InputError(
            f"--box {','.join(map(str, box))} (left, top, width, height) must lie inside {name}, {picture.shape[1]} x "
            f"{picture.shape[0]} pixels, with some background around it."
        )


def outlined(picture: UInt8[np.ndarray, "height width 3"], box: Box, name: str) -> UInt8[np.ndarray, "height width"]:
    """The mask (0 or 255) of what stands in a box, by GrabCut: its colours against those around the box.

    Args:
        picture: RGB.
        box: around the whole animal, with some background on each side.
        name: of the picture, for sentences.

    Raises:
        InputError: nothing in the box differs from what is around.
    """
    cv2.setRNGSeed(0)
    labels, behind, animal = np.zeros(picture.shape[:2], np.uint8), np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(picture, labels, box, behind, animal, GRABCUT_STEPS, cv2.GC_INIT_WITH_RECT)
    found = np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8)
    if found.sum() < 0.02 * box[2] * box[3]:
        raise InputError(f"Nothing in --box of {name} differs from what is around it; draw a mask and give it with --mask.")
    return cv2.morphologyEx(found, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)) * 255


def cut_out(rgba: UInt8[np.ndarray, "height width 4"], name: str) -> Float[Tensor, "4 height width"]:
    """The largest piece of the animal; what may spoil the result is said.

    Args:
        rgba: straight alpha.
        name: of the picture, for sentences.

    Raises:
        InputError: no pixel of the alpha channel is above one half.
    """
    solid = (rgba[..., 3] > 255 * MASK_THRESHOLD).astype(np.uint8)
    # A thin gap, as between body and tail, parts nothing.
    closed = cv2.morphologyEx(solid, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    count, pieces, table, _ = cv2.connectedComponentsWithStats(closed, connectivity=8)
    if count < 2:
        raise InputError(f"{name} shows no animal: its alpha channel is empty, or the picture is white.")
    areas = table[1:, cv2.CC_STAT_AREA]
    largest = 1 + int(areas.argmax())
    x, y, width, height = (int(v) for v in table[largest, :4])
    if (others := sorted(areas)[:-1]) and others[-1] > SECOND * areas.max():
        share = others[-1] / areas.max()
        say(f"Warning: {name} shows a second piece, {share:.0%} of the largest: a second animal or a shadow. It is left out.")
    if x == 0 or y == 0 or x + width == rgba.shape[1] or y + height == rgba.shape[0]:
        say(f"Warning: in {name} the animal touches the border: what is cut off cannot be known.")
    if max(width, height) < SMALL:
        say(f"Warning: in {name} the animal is {width} x {height} pixels: too few to show what it is.")
    alone = rgba.copy()
    alone[(pieces != largest) & (pieces != 0)] = 0
    return rgba_tensor([alone])[0]
