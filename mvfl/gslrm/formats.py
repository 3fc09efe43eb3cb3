"""Gaussians in the formats of other programs: small files for viewers, meshes for everything else."""

from __future__ import annotations

import importlib.util
import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from mvfl.config.models import Format
from mvfl.gslrm.body import Body
from mvfl.gslrm.gaussians import SH_C0, Gaussians
from mvfl.runtime.files import InputError, written_aside

# glTF, Wavefront and most programs stand things up along Y; our world stands along Z.
Y_UP = np.array([[1, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]], float)
PACKED, MESHES, FORGED, SPLATS_GLB = "compressed.ply", ("glb", "obj"), ("spz", "sog"), "splats.glb"
FORMATS: tuple[str, ...] = get_args(Format)
# Module that a kind needs besides -> the extra of mvfl that brings it.
NEEDS = {kind: {"trimesh": "mesh", "skimage": "mesh"} for kind in MESHES} | {kind: {"gaussforge": "spz"} for kind in FORGED}
SPLATTING = "KHR_gaussian_splatting"
# glTF's numbers: of components, of buffers, and of what vertices make.
FLOAT, UNSIGNED, VERTICES, INDICES, POINTS, TRIANGLES = 5126, 5125, 34962, 34963, 0, 4


def require_known(kinds: Sequence[str]) -> tuple[str, ...]:
    """The formats, each once.

    Raises:
        InputError: one that is not known, or one whose library is not installed.
    """
    for kind in kinds:
        if kind not in FORMATS:
            raise InputError(f"'{kind}' is no format; choose of {', '.join(FORMATS)}.")
        for module, extra in NEEDS.get(kind, {}).items():
            if importlib.util.find_spec(module) is None:
                raise InputError(f"The format {kind} needs {module}: install mvfl[{extra}].")
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
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the writer goes through blocks of 256: threads that wait for each other cost more than they save
    try:
        written: bytes = export_splats(
            g.xyz + ramp, g.log_scales + ramp, g.rotations, g.opacity_logits[:, 0], colours, nothing, format=kind
        )
    finally:
        torch.set_num_threads(threads)
    return written


def _forged(gaussians: Gaussians, kind: str) -> bytes:
    """SPZ of Niantic or SOG of PlayCanvas, by GaussForge: 16 to 20 bytes a Gaussian, some less for many."""
    import gaussforge

    made = gaussforge.GaussForge().convert(_exported(gaussians, "ply"), "ply", kind)
    if "error" in made:
        raise InputError(f"The Gaussians cannot be written as {kind}: {made['error']}.")
    return bytes(made["data"])


def _linear(colours: np.ndarray) -> np.ndarray:
    """Colours as displays show them (sRGB) in glTF's linear light."""
    return np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)


def _splats_glb(gaussians: Gaussians, scale: float) -> bytes:
    """GlTF with the extension KHR_gaussian_splatting: what it is to draw, not its logits; programs without it show points."""
    g = gaussians.detached()
    w, x, y, z = g.quaternions.unbind(-1)
    turned = 0.5**0.5 * torch.stack([x - w, y + z, z - y, w + x], -1)  # (x, y, z, w) after a quarter turn about -X
    opacity = g.opacities.numpy()
    colour = _linear(np.clip(SH_C0 * g.sh[:, 0].numpy() + 0.5, 0, 1))
    columns = {
        "POSITION": scale * g.xyz.numpy() @ Y_UP[:3, :3].T, "COLOR_0": np.concatenate([colour, opacity], 1),
        f"{SPLATTING}:ROTATION": turned.numpy(), f"{SPLATTING}:SCALE": scale * g.scales.numpy(),
        f"{SPLATTING}:OPACITY": opacity, f"{SPLATTING}:SH_DEGREE_0_COEF_0": g.sh[:, 0].numpy(),
    }  # fmt: skip
    drawn = {"kernel": "ellipse", "colorSpace": "srgb_rec709_display"}
    return _gltf(columns, {"mode": POINTS, "extensions": {SPLATTING: drawn}}, {"extensionsUsed": [SPLATTING]})


def _mesh(gaussians: Gaussians, body: Body, scale: float, kind: str) -> bytes:
    import trimesh

    vertices, faces, colours = body.mesh(gaussians)
    mesh = trimesh.Trimesh(scale * vertices.numpy(), faces.numpy(), vertex_colors=colours.numpy(), process=False)
    mesh.apply_transform(Y_UP)
    if kind == "obj":
        return mesh.export(file_type="obj").encode()
    # Floats: eight bits of linear light would show steps in dark fur. Without a material of its own a body counts as metal.
    columns = {"POSITION": mesh.vertices, "NORMAL": mesh.vertex_normals, "COLOR_0": _linear(colours.numpy())}
    matt = {"pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 1.0}}
    return _gltf(columns, {"mode": TRIANGLES, "material": 0}, {"materials": [matt]}, mesh.faces)


def _gltf(
    columns: dict[str, np.ndarray], primitive: dict[str, Any], entries: dict[str, Any], faces: np.ndarray | None = None
) -> bytes:
    """A binary glTF file of one primitive.

    Args:
        columns: attribute -> a row of 1, 3 or 4 numbers for each vertex.
        primitive: what it holds besides attributes and indices.
        entries: of the file, besides those of the geometry.
        faces: vertices of each triangle.
    """
    tables = [(table.astype("<f4"), FLOAT, VERTICES) for table in columns.values()]
    tables += [(faces.astype("<u4").reshape(-1, 1), UNSIGNED, INDICES)] if faces is not None else []
    accessors: list[dict[str, Any]] = []
    views, body = [], b""
    for table, component, target in tables:
        kind = {1: "SCALAR", 3: "VEC3", 4: "VEC4"}[table.shape[1]]
        views.append({"buffer": 0, "byteOffset": len(body), "byteLength": table.nbytes, "target": target})
        accessors.append({"bufferView": len(accessors), "componentType": component, "count": len(table), "type": kind})
        body += table.tobytes()
    position = tables[list(columns).index("POSITION")][0]
    accessors[list(columns).index("POSITION")] |= {"min": position.min(0).tolist(), "max": position.max(0).tolist()}
    primitive = {**primitive, "attributes": {c: i for i, c in enumerate(columns)}}
    if faces is not None:
        primitive["indices"] = len(columns)
    tree = {
        "asset": {"version": "2.0", "generator": "mvfl"}, "scene": 0, "scenes": [{"nodes": [0]}], "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [primitive]}], "buffers": [{"byteLength": len(body)}], "bufferViews": views,
        "accessors": accessors, **entries,
    }  # fmt: skip
    text = json.dumps(tree).encode()
    chunks = ((b"JSON", text + b" " * (-len(text) % 4)), (b"BIN\0", body))
    packed_chunks = b"".join(struct.pack("<I4s", len(data), name) + data for name, data in chunks)
    return struct.pack("<4sII", b"glTF", 2, 12 + len(packed_chunks)) + packed_chunks


def _written(kind: str, gaussians: Gaussians, body: Body, scale: float) -> bytes:
    if kind in MESHES:
        return _mesh(gaussians, body, scale, kind)
    if kind == SPLATS_GLB:
        return _splats_glb(gaussians, scale)
    if kind in FORGED:
        return _forged(gaussians, kind)
    return packed(gaussians) if kind == PACKED else _exported(gaussians, kind)


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
        millimetres: in one world unit; glTF and meshes are then in metres, as glTF asks, otherwise in world units.

    Raises:
        InputError: see `require_known`.
    """
    scale = millimetres / 1000 if millimetres else 1.0
    files = []
    for kind in require_known(kinds):
        with written_aside(folder / f"{name}.{kind}") as temporary:
            temporary.write_bytes(_written(kind, gaussians, body, scale))
        files.append(folder / f"{name}.{kind}")
    return files
