"""Gaussians in the formats of other programs: small files for viewers, meshes for everything else."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from mvfl.gslrm.body import Body
from mvfl.gslrm.gaussians import Gaussians
from mvfl.runtime.files import InputError, written_aside

# glTF, Wavefront and most programs stand things up along Y; our world stands along Z.
Y_UP = np.array([[1, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]], float)
PACKED, MESHES = "compressed.ply", ("glb", "obj")
FORMATS = ("splat", PACKED, *MESHES)


def require_known(kinds: Sequence[str]) -> tuple[str, ...]:
    """The formats, each once.

    Raises:
        InputError: one that is not known, or a mesh without the extra `mesh`.
    """
    for kind in kinds:
        if kind not in FORMATS:
            raise InputError(f"'{kind}' is no format; choose of {', '.join(FORMATS)}.")
        missing = [m for m in ("trimesh", "skimage") if kind in MESHES and importlib.util.find_spec(m) is None]
        if missing:
            raise InputError(f"A mesh ({kind}) needs {' and '.join(missing)}: install mvfl[mesh].")
    return tuple(dict.fromkeys(kinds))


def packed(gaussians: Gaussians) -> bytes:
    """The compressed PLY of PlayCanvas: 16 bytes a Gaussian, colours of degree 0, all to 8 to 11 bits within blocks of 256."""
    written = _exported(gaussians, "ply_compressed")
    # Without higher degrees the writer still announces elements of no bytes, and PlayCanvas would count them for ever.
    header, end, rest = written.partition(b"end_header\n")
    return b"".join(line for line in header.splitlines(keepends=True) if not line.startswith(b"element sh ")) + end + rest


def _exported(gaussians: Gaussians, kind: str) -> bytes:
    from gsplat.exporter import export_splats

    g = gaussians.detached()
    # The writer divides by each block's range: values that are all equal would become NaN and spill into their neighbours' bits.
    ramp = torch.linspace(-1e-5, 1e-5, len(g))[:, None]
    colours, nothing = g.sh[:, :1] + ramp[..., None], torch.zeros(len(g), 0, 3)
    written: bytes = export_splats(
        g.xyz + ramp, g.log_scales + ramp, g.rotations, g.opacity_logits[:, 0], colours, nothing, format=kind
    )
    return written


def _mesh(gaussians: Gaussians, body: Body, scale: float, kind: str) -> bytes:
    import trimesh

    vertices, faces, colours = body.mesh(gaussians)
    shades = (255 * colours.numpy()).round().astype(np.uint8)
    mesh = trimesh.Trimesh(scale * vertices.numpy(), faces.numpy(), vertex_colors=shades, process=False)
    mesh.apply_transform(Y_UP)
    data = mesh.export(file_type=kind)
    return data.encode() if isinstance(data, str) else bytes(data)


def save_as(
    kinds: tuple[str, ...], gaussians: Gaussians, body: Body, folder: Path, name: str = "animal", millimetres: float | None = None
) -> list[Path]:
    """Write further files of one object.

    Args:
        kinds: of `FORMATS`.
        gaussians: of the object.
        body: that they enclose; what a mesh is made of.
        folder: where the files go.
        name: of the files, without ending.
        millimetres: in one world unit; meshes are then in metres, as glTF asks, otherwise in world units.

    Raises:
        InputError: see `require_known`.
    """
    scale = millimetres / 1000 if millimetres else 1.0
    files = []
    for kind in require_known(kinds):
        with written_aside(folder / f"{name}.{kind}") as temporary:
            if kind in MESHES:
                temporary.write_bytes(_mesh(gaussians, body, scale, kind))
            else:
                temporary.write_bytes(packed(gaussians) if kind == PACKED else _exported(gaussians, kind))
        files.append(folder / f"{name}.{kind}")
    return files
