"""Do pictures and cameras belong together? What the silhouettes of one moment can tell, whatever the animal's size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float

from mvfl.geometry.lens import LensCamera
from mvfl.geometry.virtual import triangulate

GRID = 48  # voxels per side of the cube around the animal
COARSE = 16  # of them in a first look, that leaves most of the cube out
INNER_POINTS = 300  # of a silhouette, beside its outline
CUBE_MARGIN = 1.05


@dataclass(frozen=True)
class Silhouette:
    """The animal's pixels in one recorded picture, kept as the part of the picture that holds them.

    Attributes:
        bits: the part.
        corner: column and row of its first pixel in the picture.
        size: width and height of the picture.
    """

    bits: Bool[np.ndarray, "height width"]
    corner: tuple[int, int]
    size: tuple[int, int]

    @staticmethod
    def of(mask: Bool[np.ndarray, "height width"]) -> Silhouette:
        """Cut the animal out of a mask.

        Raises:
            ValueError: nothing in it.
        """
        x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
        if not width:
            raise ValueError("an empty mask")
        return Silhouette(mask[y : y + height, x : x + width].copy(), (x, y), (mask.shape[1], mask.shape[0]))

    @property
    def area(self) -> int:
        """Pixels."""
        return int(self.bits.sum())

    @cached_property
    def centroid(self) -> Float[np.ndarray, "2"]:
        """Column and row of the centre of mass."""
        moments = cv2.moments(self.bits.view(np.uint8), binaryImage=True)
        return np.array([moments["m10"], moments["m01"]]) / moments["m00"] + self.corner + 0.5

    @cached_property
    def pixels(self) -> Float[np.ndarray, "n 2"]:
        """Columns and rows of the animal: some spread evenly, and its whole outline."""
        rows, columns = np.nonzero(self.bits)
        step = max(1, len(rows) // INNER_POINTS)
        contours = cv2.findContours(self.bits.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
        inside = np.stack([columns[::step], rows[::step]], 1)
        return np.concatenate([inside, *(c[:, 0] for c in contours)]) + np.array(self.corner) + 0.5

    def touches_border(self) -> bool:
        """Whether the animal is cut off."""
        (x, y), (height, width) = self.corner, self.bits.shape
        return x == 0 or y == 0 or x + width == self.size[0] or y + height == self.size[1]

    def draw(self, picture: np.ndarray, value: int) -> None:
        """Set the animal's pixels of a whole picture."""
        (x, y), (height, width) = self.corner, self.bits.shape
        picture[y : y + height, x : x + width][self.bits] = value

    def turned(self) -> Silhouette:
        """As in a picture that was turned by 180 degrees."""
        height, width = self.bits.shape
        corner = (self.size[0] - self.corner[0] - width, self.size[1] - self.corner[1] - height)
        return Silhouette(self.bits[::-1, ::-1], corner, self.size)

    def mirrored(self) -> Silhouette:
        """As in a picture that was mirrored left to right."""
        return Silhouette(self.bits[:, ::-1], (self.size[0] - self.corner[0] - self.bits.shape[1], self.corner[1]), self.size)

    def grown(self, pixels: float) -> Silhouette:
        """The silhouette with a border of some pixels around it."""
        wide = int(np.ceil(pixels))
        padded = np.pad(self.bits, wide).view(np.uint8)
        near = cv2.distanceTransform(1 - padded, cv2.DIST_L2, 3) <= pixels + 1
        return Silhouette(near, (self.corner[0] - wide, self.corner[1] - wide), self.size)

    def covers(self, pixels: Float[np.ndarray, "n 2"]) -> Bool[np.ndarray, " n"]:
        """Whether the animal is seen at (column, row); never where these are NaN."""
        with np.errstate(invalid="ignore"):
            column, row = (np.nan_to_num(np.floor(pixels), nan=-1).astype(np.int64) - self.corner).T
        height, width = self.bits.shape
        within = (column >= 0) & (row >= 0) & (column < width) & (row < height)
        out = np.zeros(len(pixels), bool)
        out[within] = self.bits[row[within], column[within]]
        return out


def touches_border(mask: Bool[np.ndarray, "height width"]) -> bool:
    """Whether the animal is cut off."""
    return bool(mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any())


def triangulated_centre(
    silhouettes: Sequence[Silhouette], cameras: Sequence[LensCamera]
) -> tuple[Float[np.ndarray, " 3"], Float[np.ndarray, " view"]]:
    """The animal's centre from the silhouettes' centres of mass, and how far each camera sees it from there, in pixels.

    The nearer end of a long animal looks larger: with perfect cameras a twentieth of the animal's length remains.
    """
    pixels = np.array([c.undistorted(s.centroid[None])[0] for s, c in zip(silhouettes, cameras, strict=True)])
    return triangulate([c.camera for c in cameras], pixels)


@dataclass(frozen=True)
class Body:
    """What the silhouettes of one moment allow in space.

    Attributes:
        points: centres of the occupied voxels [n, 3], world units.
        voxel: side of a voxel.
        overlaps: intersection over union of each silhouette with the body's own one.
        leans: how far the centre of the body's silhouette lies from its own centre's projection, in pixels: perspective and
            shape, which would else look like an error of the camera.
    """

    points: Float[np.ndarray, "n 3"]
    voxel: float
    overlaps: Float[np.ndarray, " view"]
    leans: Float[np.ndarray, "view 2"]

    @property
    def overlap(self) -> float:
        """Mean over the views: about 0.85 for an animal with its own cameras."""
        return float(self.overlaps.mean())


def carve_body(
    silhouettes: Sequence[Silhouette], cameras: Sequence[LensCamera], centre: Float[np.ndarray, "3"] | None = None
) -> Body:
    """Carve the visual hull in a cube around the animal, as large as the animal, and compare its silhouettes with those given.

    Args:
        silhouettes, cameras: one per view.
        centre: of the animal; default: where the views' rays meet.
    """
    centre = triangulated_centre(silhouettes, cameras)[0] if centre is None else centre
    half = CUBE_MARGIN * max(_radius(s, c, centre) for s, c in zip(silhouettes, cameras, strict=True))
    points = _grid(COARSE, half) + centre
    for s, c in zip(silhouettes, cameras, strict=True):
        depth = float(c.camera.w2c[2, :3] @ centre + c.camera.w2c[2, 3])
        reach = c.camera.fx * 3**0.5 * half / COARSE / max(depth - 2 * half, depth / 4)  # half a coarse voxel's diagonal
        points = points[s.grown(reach).covers(c.project(points))]
    points = (points[:, None] + _grid(GRID // COARSE, half / COARSE)[None]).reshape(-1, 3)
    for s, c in zip(silhouettes, cameras, strict=True):
        points = points[s.covers(c.project(points))]
    voxel = 2 * half / GRID
    seen = [shadow(points, voxel, s, c) for s, c in zip(silhouettes, cameras, strict=True)]
    return Body(points, voxel, np.array([s.overlap for s in seen]), np.array([s.lean for s in seen]))


def _grid(side: int, half: float) -> Float[np.ndarray, "n 3"]:
    """Centres of side^3 voxels of a cube about the origin."""
    axis = ((np.arange(side) + 0.5) / side * 2 - 1) * half
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)


def _radius(silhouette: Silhouette, camera: LensCamera, centre: Float[np.ndarray, "3"]) -> float:
    """Distance of the animal's furthest pixel from the centre's ray, at the centre's depth."""
    _, _, depth = camera.camera.w2c[:3, :3] @ centre + camera.camera.w2c[:3, 3]
    middle = camera.camera.project(centre[None])[0, :2]
    away = np.linalg.norm(camera.undistorted(silhouette.pixels) - middle, axis=1)
    return float(abs(depth) * np.nanmax(away) / camera.camera.fx) if np.isfinite(away).any() else float(abs(depth))


class Shadow(NamedTuple):
    """A body's own silhouette in one view.

    Attributes:
        overlap: intersection over union with the silhouette that was seen.
        lean: centre of the shadow minus the projection of the body's centre, pixels.
    """

    overlap: float
    lean: Float[np.ndarray, "2"]


def shadow(points: Float[np.ndarray, "n 3"], voxel: float, silhouette: Silhouette, camera: LensCamera) -> Shadow:
    """The silhouette of voxels, at their resolution, beside the one that was seen."""
    seen = camera.project(points)
    seen = seen[np.isfinite(seen).all(1)]
    if not len(seen):
        return Shadow(0.0, np.zeros(2))
    depth = float(np.median(points @ camera.camera.w2c[2, :3] + camera.camera.w2c[2, 3]))
    cell = max(1.0, float(voxel * camera.camera.fx / depth))
    (x, y), (height, width) = silhouette.corner, silhouette.bits.shape
    both = np.concatenate([seen, [[x, y], [x + width, y + height]]])
    low = np.floor(both.min(0) / cell - 1) * cell
    shape = np.ceil((both.max(0) - low) / cell).astype(int) + 1
    if shape.max() > 8 * GRID:
        return Shadow(0.0, np.zeros(2))
    own = np.zeros(shape[::-1], np.uint8)
    column, row = ((seen - low) / cell).astype(int).T
    own[row, column] = 1
    mine = cv2.morphologyEx(own, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8)).astype(bool)
    columns, rows = ((np.arange(n) + 0.5) * cell + o for n, o in zip(shape.tolist(), low.tolist(), strict=True))
    grid = np.stack(np.meshgrid(columns, rows), -1).reshape(-1, 2)
    true = silhouette.covers(grid).reshape(own.shape)
    middle = camera.project(points.mean(0, keepdims=True))[0]
    return Shadow(float((mine & true).sum() / max(1, int((mine | true).sum()))), grid[mine.ravel()].mean(0) - middle)
