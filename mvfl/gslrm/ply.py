"""PLY files of Gaussians, in the layout that 3DGS viewers read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from plyfile import PlyData, PlyElement

from mvfl.gslrm.gaussians import Gaussians
from mvfl.runtime.reading import named_errors, require_file

PUBLISHED_REST = 45  # coefficients of degree 1 to 3, which the original writes whatever the degree
COLOURS = ("red", "green", "blue")


def _names(rest: int) -> list[str]:
    """Columns of a file with so many coefficients beyond degree 0."""
    return [
        "x", "y", "z", *COLOURS, *(f"f_dc_{i}" for i in range(3)), *(f"f_rest_{i}" for i in range(rest)),
        "opacity", *(f"scale_{i}" for i in range(3)), *(f"rot_{i}" for i in range(4)),
    ]  # fmt: skip


def save_ply(gaussians: Gaussians, path: Path, published: bool = False) -> None:
    """Write binary little endian: logits, log-scales, unnormalised quaternions, degree-0 colour also as bytes.

    A Gaussian of degree 0 takes 59 bytes.

    Args:
        gaussians: to write.
        path: of the file.
        published: the original's layout, 239 bytes: f_rest channel-major for the degree present, zeros appended up to degree 3.
    """
    g = gaussians.detached()
    count = len(g)
    columns = _names(PUBLISHED_REST if published else 3 * (g.sh.shape[1] - 1))
    table = np.zeros(count, dtype=[(n, "u1" if n in COLOURS else "<f4") for n in columns])
    dc = g.sh[:, 0].numpy()
    rest = g.sh[:, 1:].transpose(1, 2).reshape(count, -1).numpy()
    rgb = np.trunc(np.clip(255 * (0.2820948 * dc + 0.5), 0, 255)).astype(np.uint8)
    for i, axis in enumerate("xyz"):
        table[axis] = g.xyz[:, i].numpy()
    for i, name in enumerate(COLOURS):
        table[name] = rgb[:, i]
        table[f"f_dc_{i}"] = dc[:, i]
    for i in range(rest.shape[1]):
        table[f"f_rest_{i}"] = rest[:, i]
    table["opacity"] = g.opacity_logits[:, 0].numpy()
    for i in range(3):
        table[f"scale_{i}"] = g.log_scales[:, i].numpy()
    for i in range(4):
        table[f"rot_{i}"] = g.rotations[:, i].numpy()
    PlyData([PlyElement.describe(table, "vertex")], byte_order="<").write(str(path))


def load_ply(path: Path, sh_degree: int = 0) -> Gaussians:
    """Read a file that `save_ply` wrote.

    Args:
        path: PLY file.
        sh_degree: degree of the spherical harmonics to read.

    Raises:
        InputError: missing, damaged, or not a file of Gaussians.
    """
    remedy = "export it again"
    require_file(path, remedy)
    with named_errors(path, "a PLY file of Gaussians", remedy):
        v = PlyData.read(str(path))["vertex"]
        if not len(v.data) or any(v.data.dtype[n].kind != "f" for n in _names(0) if n not in COLOURS):
            raise ValueError("no vertices, or columns that are no floats")
        column = lambda *names: torch.from_numpy(np.stack([v[n] for n in names], 1).astype(np.float32))  # noqa: E731
        size = (sh_degree + 1) ** 2
        dc = column("f_dc_0", "f_dc_1", "f_dc_2")[:, None]
        rest = torch.zeros(len(dc), 0, 3)
        if size > 1:
            flat = column(*(f"f_rest_{i}" for i in range(3 * (size - 1))))
            rest = flat.unflatten(1, (3, size - 1)).transpose(1, 2)
        gaussians = Gaussians(
            column("x", "y", "z"),
            torch.cat([dc, rest], 1),
            column("scale_0", "scale_1", "scale_2"),
            column("rot_0", "rot_1", "rot_2", "rot_3"),
            column("opacity"),
        )
        if not all(bool(torch.isfinite(t).all()) for t in vars(gaussians).values()):
            raise ValueError("it holds NaN or infinity")
    return gaussians
