"""A z-buffer triangle rasteriser in numpy, and value noise on a hashed lattice."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def rasterise(
    screen: np.ndarray,
    faces: np.ndarray,
    width: int,
    height: int,
    keep: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Nearest surface at each pixel centre.

    screen holds (u, v, z) per vertex.  Returns flat arrays over the covered pixels:
    pixel index, face index and perspective-correct barycentric weights (k, 3).
    ``keep(face, bary) -> bool mask`` may drop fragments before the depth test.
    """
    tri = screen[faces]
    lo = np.floor(tri[:, :, :2].min(1) - 0.5).astype(np.int64) + 1
    hi = np.floor(tri[:, :, :2].max(1) - 0.5).astype(np.int64)
    lo = np.maximum(lo, 0)
    hi = np.minimum(hi, [width - 1, height - 1])
    span = hi - lo + 1
    e1 = tri[:, 1, :2] - tri[:, 0, :2]
    e2 = tri[:, 2, :2] - tri[:, 0, :2]
    area = e1[:, 0] * e2[:, 1] - e1[:, 1] * e2[:, 0]
    live = np.flatnonzero((span > 0).all(1) & (np.abs(area) > 1e-12))
    counts = span[live, 0] * span[live, 1]
    face = np.repeat(live, counts)
    step = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    row, col = np.divmod(step, span[face, 0])
    px, py = lo[face, 0] + col, lo[face, 1] + row
    dx = px + 0.5 - tri[face, 0, 0]
    dy = py + 0.5 - tri[face, 0, 1]
    b1 = (dx * e2[face, 1] - dy * e2[face, 0]) / area[face]
    b2 = (dy * e1[face, 0] - dx * e1[face, 1]) / area[face]
    inside = np.flatnonzero((b1 >= 0) & (b2 >= 0) & (b1 + b2 <= 1))
    face, px, py, b1, b2 = face[inside], px[inside], py[inside], b1[inside], b2[inside]
    bary = np.stack([1 - b1 - b2, b1, b2], 1) / tri[face, :, 2]
    z = 1 / bary.sum(1)
    bary *= z[:, None]
    if keep is not None:
        ok = np.flatnonzero(keep(face, bary))
        face, px, py, bary, z = face[ok], px[ok], py[ok], bary[ok], z[ok]
    pixel = py * width + px
    order = np.argsort(-z, kind="stable")
    owner = np.full(width * height, -1, np.int64)
    owner[pixel[order]] = order  # later, nearer fragments win
    covered = np.flatnonzero(owner >= 0)
    chosen = owner[covered]
    return covered, face[chosen], bary[chosen], z[chosen]


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Unit normals per vertex, weighted by the area of the faces around it."""
    t = vertices[faces]
    n = np.cross(t[:, 1] - t[:, 0], t[:, 2] - t[:, 0])
    out = np.empty_like(vertices)
    for axis in range(3):
        out[:, axis] = np.bincount(faces.ravel(), np.repeat(n[:, axis], 3), len(vertices))
    return out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-12)


def value_noise(p: np.ndarray, seed: int) -> np.ndarray:
    """Smooth noise in [0, 1] at points (n, 3) of an integer lattice, by hashing."""
    cell = np.floor(p).astype(np.int64)
    f = p - cell
    f = (f * f * (3 - 2 * f)).astype(np.float32)
    total = np.zeros(len(p), np.float32)
    for corner in range(8):
        d = np.array([corner & 1, corner >> 1 & 1, corner >> 2])
        c = (cell + d).astype(np.uint32)
        h = c[:, 0] * np.uint32(73856093) ^ c[:, 1] * np.uint32(19349663) ^ c[:, 2] * np.uint32(83492791)
        h = (h + np.uint32(seed * 2654435761 & 0xFFFFFFFF)) * np.uint32(0x85EBCA6B)
        h ^= h >> np.uint32(13)
        h *= np.uint32(0xC2B2AE35)
        h ^= h >> np.uint32(16)
        w = np.prod(np.where(d == 1, f, 1 - f), 1)
        total += w * (h.astype(np.float32) / np.float32(2**32))
    return total
