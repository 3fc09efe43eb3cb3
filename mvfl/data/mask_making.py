"""Masks from videos alone: where the picture differs from its background, or from its surroundings, refined by GrabCut.

Two hints say where the animal is. An animal that walks differs from the median of frames spread over the recording. One that
sits still is part of that median; then a compact patch that is brighter, or darker, than what surrounds it is looked for. Cameras
vote: of the patches in each picture, those are taken whose centres meet in one point in space. GrabCut (Rother et al. 2004,
OpenCV's) then finds the outline. Every second of work is spent near the patch, not on the whole picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from mvfl.data.masks import cleaned
from mvfl.geometry.lens import LensCamera
from mvfl.geometry.virtual import triangulate
from mvfl.runtime.files import InputError

BACKGROUND_FRAMES = 25
PATCHES = 6  # candidates per picture
SMALLEST, LARGEST = 2e-4, 0.25  # share of the picture that an animal covers
MOVED = 18  # grey levels from the background
GRABCUT_STEPS = 4
LIKELY = 0.3  # how much a patch's own look counts beside the agreement of the cameras
# Of the body's contrast with the brightest (or darkest) tenth around it: what stands out so, and hangs on the body, is its tail.
THIN = 0.35
REACH = 2.4  # of the patch's box, that GrabCut looks at
NO_BOX = (0, 0, 1, 1)  # GrabCut starts from labels here
WORK_SIDE = 320  # pixels; larger regions are worked on at a smaller size
Picture = UInt8[np.ndarray, "height width 3"]


@dataclass(frozen=True)
class Patch:
    """Where an animal could be.

    Attributes:
        mask: of the patch, whole picture.
        centre: column and row.
        weight: how much it looks like an animal; larger is better.
        size: square root of its area in pixels.
    """

    mask: Bool[np.ndarray, "height width"]
    centre: Float[np.ndarray, "2"]
    weight: float
    size: float


def background(frames: Sequence[Picture]) -> Picture:
    """What stays: the median over frames spread over the recording."""
    return np.median(np.stack(frames), axis=0).astype(np.uint8)


def patches(picture: Picture, still: Picture | None) -> list[Patch]:
    """Candidates in one picture, the best first.

    Args:
        picture: RGB.
        still: the background; None, or one that hides a still animal, leaves the contrast with the surroundings.
    """
    found: list[Patch] = []
    if still is not None:
        changed = np.abs(picture.astype(np.int16) - still).max(-1).astype(np.float32)
        found += _pieces(cv2.GaussianBlur(changed, (0, 0), 2), MOVED, 2.0)
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)
    side = max(picture.shape[:2])
    # The surroundings of a patch as large as an animal: its own light must not count much among them.
    wide = cv2.blur(grey, (side // 3 | 1, side // 3 | 1))
    fine = cv2.GaussianBlur(grey, (0, 0), max(1.0, side / 400))
    for contrast in (fine - wide, wide - fine):
        level = float(contrast.std()) * 2.0
        found += _pieces(contrast, max(level, 10.0), 1.0)
    return sorted(found, key=lambda p: -p.weight)[:PATCHES]


def _pieces(score: Float[np.ndarray, "height width"], level: float, trust: float) -> list[Patch]:
    """Compact pieces above a level."""
    rough = cv2.morphologyEx((score > level).astype(np.uint8), cv2.MORPH_OPEN, np.ones((5, 5), np.uint8))
    count, labels, table, centres = cv2.connectedComponentsWithStats(rough, connectivity=8)
    out = []
    for piece in range(1, count):
        area = float(table[piece, cv2.CC_STAT_AREA])
        if not SMALLEST < area / rough.size < LARGEST:
            continue
        mask = labels == piece
        contour = max(cv2.findContours(mask.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0], key=len)
        solid = area / max(1.0, cv2.contourArea(cv2.convexHull(contour)))
        _, (long, short), _ = cv2.minAreaRect(contour)
        stout = min(long, short) / max(long, short, 1.0)
        weight = trust * solid**2 * stout**0.5 * float(score[mask].mean()) * area**0.25
        out.append(Patch(mask, centres[piece] + 0.5, weight, area**0.5))
    return out


def agreeing(candidates: Sequence[Sequence[Patch]], cameras: Sequence[LensCamera]) -> list[Patch] | None:
    """One patch per picture, so that all are of one thing in space; None where there is none.

    Every two patches of two pictures give a point and a size; in each other picture the patch nearest to them in place, size and
    look is taken. Misses are measured against sizes, so that any resolution and distance will do.
    """
    if any(not c for c in candidates):
        return None
    seen = [camera.undistorted(np.array([p.centre for p in c])) for c, camera in zip(candidates, cameras, strict=True)]
    best: tuple[float, list[Patch]] | None = None
    for a, b in combinations(range(len(cameras)), 2):
        for i, j in product(range(len(candidates[a])), range(len(candidates[b]))):
            if not np.isfinite([seen[a][i], seen[b][j]]).all():
                continue
            point, _ = triangulate([cameras[a].camera, cameras[b].camera], np.array([seen[a][i], seen[b][j]]))
            two = [_real_size(p, c, point) for p, c in ((candidates[a][i], cameras[a]), (candidates[b][j], cameras[b]))]
            if min(two) <= 0:
                continue
            size = float(np.sqrt(two[0] * two[1]))
            rows = [_costs(c, s, camera, point, size) for c, s, camera in zip(candidates, seen, cameras, strict=True)]
            score = float(np.mean([r.min() for r in rows]))
            if best is None or score < best[0]:
                best = (score, [c[int(r.argmin())] for c, r in zip(candidates, rows, strict=True)])
    return best[1] if best else None


def _real_size(patch: Patch, camera: LensCamera, point: Float[np.ndarray, "3"]) -> float:
    """Square root of the patch's area at the point's depth, world units; not positive behind the camera."""
    return float(patch.size * camera.camera.project(point[None])[0, 2] / camera.camera.fx)


def _costs(
    patches: Sequence[Patch], seen: Float[np.ndarray, "n 2"], camera: LensCamera, point: Float[np.ndarray, "3"], size: float
) -> Float[np.ndarray, " n"]:
    """How badly each patch of a picture fits a thing of some size at a point."""
    column, row, depth = camera.camera.project(point[None])[0]
    if depth <= 0:
        return np.full(len(patches), np.inf)
    wanted = size * camera.camera.fx / depth
    misses = np.linalg.norm(seen - [column, row], axis=1) / wanted
    sizes = np.abs(np.log([p.size / wanted for p in patches]))
    looks = np.array([p.weight for p in patches]) / patches[0].weight
    return np.nan_to_num(misses, nan=np.inf) + sizes - LIKELY * looks


def _brightest(part: Picture, seed: UInt8[np.ndarray, "height width"]) -> UInt8[np.ndarray, "height width"]:
    """The largest piece that stands out about a patch (Otsu's threshold): a patch may hold bedding beside the animal."""
    grey = cv2.cvtColor(part, cv2.COLOR_RGB2GRAY)
    near = cv2.dilate(seed, np.ones((2 * max(3, round(0.4 * np.sqrt(seed.sum()))) + 1,) * 2, np.uint8)) > 0
    level, _ = cv2.threshold(grey[near][:, None], 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    bright = grey[seed > 0].mean() > grey[seed == 0].mean()
    outstanding = ((grey > level) if bright else (grey <= level)) & near
    apart = cv2.morphologyEx(outstanding.view(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    count, labels, table, _ = cv2.connectedComponentsWithStats(apart, connectivity=4)
    if count < 2:
        return seed
    piece = (labels == 1 + int(table[1:, cv2.CC_STAT_AREA].argmax())).astype(np.uint8)
    return piece if piece.sum() > 0.5 * seed.sum() else seed


def _compact(body: Bool[np.ndarray, "height width"]) -> Bool[np.ndarray, "height width"]:
    """The largest piece without thin webs of bedding."""
    width = max(3, round(0.07 * float(body.sum()) ** 0.5)) | 1
    opened = cv2.morphologyEx(body.view(np.uint8), cv2.MORPH_OPEN, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width)))
    count, pieces, table, _ = cv2.connectedComponentsWithStats(opened, connectivity=4)
    return body if count < 2 else pieces == 1 + int(table[1:, cv2.CC_STAT_AREA].argmax())


def _hanging_on(part: Picture, body: Bool[np.ndarray, "height width"]) -> Bool[np.ndarray, "height width"]:
    """Pixels that hang on the body and stand out from the surroundings as it does: GrabCut smooths thin tails away."""
    grey = cv2.cvtColor(part, cv2.COLOR_RGB2GRAY).astype(np.float32)
    if not body.any() or body.all():
        return np.zeros_like(body)
    inside, middle = float(np.median(grey[body])), float(np.median(grey[~body]))
    outside = float(np.quantile(grey[~body], 0.9 if inside > middle else 0.1))
    if (inside - outside) * (inside - middle) < 100:  # the surroundings are partly as bright as the animal
        return np.zeros_like(body)
    bright = ((grey - outside) / (inside - outside) > THIN) | body
    _, labels = cv2.connectedComponents(bright.view(np.uint8), connectivity=8)
    hanging = np.isin(labels, np.unique(labels[body]))
    count, pieces, table, _ = cv2.connectedComponentsWithStats((hanging & ~body).view(np.uint8), connectivity=8)
    depth = cv2.distanceTransform((hanging & ~body).view(np.uint8), cv2.DIST_L2, 3)
    side = float(body.sum()) ** 0.5
    tail = np.zeros_like(body)
    for piece in sorted(range(1, count), key=lambda i: -table[i, cv2.CC_STAT_AREA])[:2]:
        length = float(np.hypot(table[piece, cv2.CC_STAT_WIDTH], table[piece, cv2.CC_STAT_HEIGHT]))
        area = float(table[piece, cv2.CC_STAT_AREA])
        if depth[pieces == piece].max() < 0.08 * side and length > 4 * area / length:  # thin and long; bedding is neither
            tail |= pieces == piece
    return tail


@dataclass(frozen=True)
class _Region:
    """The part of a picture that GrabCut looks at, perhaps at a smaller size.

    Attributes:
        part: pixels.
        labels: GrabCut's, from the patch.
        box: left, top, right, bottom in the picture.
    """

    part: Picture
    labels: UInt8[np.ndarray, "height width"]
    box: tuple[int, int, int, int]


def _region(picture: Picture, hint: Bool[np.ndarray, "height width"]) -> _Region:
    """Cut out what surrounds a patch, and say what is surely animal, surely not, and open."""
    x, y, width, height = cv2.boundingRect(hint.view(np.uint8))
    more = (REACH - 1) / 2 * max(width, height)
    left, top = int(max(0, x - more)), int(max(0, y - more))
    right, bottom = int(min(hint.shape[1], x + width + more)), int(min(hint.shape[0], y + height + more))
    part: Any = picture[top:bottom, left:right]
    seed: Any = hint[top:bottom, left:right].view(np.uint8)
    shrink = min(1.0, WORK_SIDE / max(part.shape[:2]))
    if shrink < 1:
        size = (round(part.shape[1] * shrink), round(part.shape[0] * shrink))
        part, seed = cv2.resize(part, size, interpolation=cv2.INTER_AREA), cv2.resize(seed, size, interpolation=cv2.INTER_NEAREST)
    seed = _brightest(part, seed)
    labels = np.full(seed.shape, cv2.GC_PR_BGD, np.uint8)
    reach = max(3, round(0.08 * np.sqrt(seed.sum())))
    near = cv2.dilate(seed, np.ones((2 * reach + 1,) * 2, np.uint8))
    core = cv2.erode(seed, np.ones((reach | 1,) * 2, np.uint8))
    far = cv2.dilate(near, np.ones((6 * reach + 1,) * 2, np.uint8))
    labels[far == 0] = cv2.GC_BGD  # bedding as bright as the animal must not draw the outline away
    labels[near > 0] = cv2.GC_PR_FGD
    labels[core > 0] = cv2.GC_FGD
    frame = max(2, round(0.02 * max(seed.shape)))
    labels[:frame], labels[-frame:], labels[:, :frame], labels[:, -frame:] = (cv2.GC_BGD,) * 4
    return _Region(part, labels, (left, top, right, bottom))


class Outliner:
    """Finds outlines in one camera's pictures with one model of the animal's and the surroundings' colours for all of them.

    Learned from single frames, colours that animal and bedding share would fall now to one, now to the other.

    Args:
        pictures, hints: frames spread over the recording, and a patch of the animal in each.
    """

    def __init__(self, pictures: Sequence[Picture], hints: Sequence[Bool[np.ndarray, "height width"]]) -> None:
        regions = [_region(p, h) for p, h in zip(pictures, hints, strict=True)]
        width = max(r.part.shape[1] for r in regions)
        parts = [np.pad(r.part, ((0, 0), (0, width - r.part.shape[1]), (0, 0)), mode="edge") for r in regions]
        labels = [np.pad(r.labels, ((0, 0), (0, width - r.labels.shape[1])), constant_values=cv2.GC_BGD) for r in regions]
        self.behind, self.animal = np.zeros((1, 65)), np.zeros((1, 65))
        if not np.isin(np.concatenate(labels), (cv2.GC_FGD, cv2.GC_PR_FGD)).any():
            raise InputError("What stands out lies along the border of the picture, so that no outline can be drawn about it.")
        cv2.setRNGSeed(0)
        together = (np.concatenate(parts), np.concatenate(labels))
        cv2.grabCut(*together, NO_BOX, self.behind, self.animal, GRABCUT_STEPS, cv2.GC_INIT_WITH_MASK)

    def __call__(self, picture: Picture, hint: Bool[np.ndarray, "height width"]) -> UInt8[np.ndarray, "height width"]:
        """The animal's mask, 0 or 255, from a picture and a patch of it."""
        region = _region(picture, hint)
        labels = region.labels.copy()
        cv2.grabCut(region.part, labels, NO_BOX, self.behind.copy(), self.animal.copy(), 1, cv2.GC_EVAL_FREEZE_MODEL)
        body = _compact(np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD)))
        animal = (body | _hanging_on(region.part, body)).astype(np.uint8) * 255
        left, top, right, bottom = region.box
        if animal.shape != (bottom - top, right - left):
            animal = cv2.resize(animal, (right - left, bottom - top), interpolation=cv2.INTER_LINEAR)
        out = np.zeros(hint.shape, np.uint8)
        out[top:bottom, left:right] = animal
        return cleaned(out)
