"""The closed body of a 3D model: volume, surface, embedding of shape and posture, meshes and small formats."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import gaussforge
import numpy as np
import pytest
import torch
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from plyfile import PlyData

from mvfl.data.pictures import composite, rgba_tensor
from mvfl.data.rodent.sampling import load_rodent, make_sample
from mvfl.geometry.rig import load_rig
from mvfl.gslrm.body import SHELLS, Body, carved, spectrum
from mvfl.gslrm.formats import FORMATS, save_as
from mvfl.gslrm.gaussians import Gaussians, rotation_matrices
from mvfl.gslrm.ply import load_ply, save_ply
from mvfl.runtime.files import InputError
from mvfl.stages.reconstructor import Reconstructor


def skin(radii: tuple[float, float, float], count: int = 2500) -> Gaussians:
    """Opaque grey Gaussians on an ellipsoid's surface: hollow, as those of GS-LRM."""
    i = torch.arange(count) + 0.5
    z, turn = 1 - 2 * i / count, math.pi * (1 + 5**0.5) * i
    flat = (1 - z * z).sqrt()
    xyz = torch.stack([flat * turn.cos(), flat * turn.sin(), z], 1) * torch.tensor(radii)
    size = torch.full((count, 3), math.log(0.02))
    return Gaussians(
        xyz, torch.zeros(count, 1, 3), size, torch.tensor([[1.0, 0, 0, 0]]).repeat(count, 1), torch.full((count, 1), 4.0)
    )


@pytest.fixture(scope="module")
def ball() -> tuple[Gaussians, Body]:
    gaussians = skin((0.5, 0.5, 0.5))
    return gaussians, carved(gaussians)


def test_a_hollow_skin_encloses_its_whole_volume(ball: tuple[Gaussians, Body]) -> None:
    radius = 0.5 + 0.02  # half of a Gaussian of the skin lies outside; what few silhouettes leave is a little larger than a ball
    assert ball[1].volume == pytest.approx(4 / 3 * math.pi * radius**3, rel=0.15)
    assert ball[1].surface == pytest.approx(4 * math.pi * radius**2, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("pose", ["walk", "crouch"])
def test_the_volume_of_an_animal_is_found_from_six_views(pose: str) -> None:
    """Against the mesh that was drawn; the shipped base, whose skin is porous."""
    cameras = load_rig("ring60", 128).cameras
    sample = make_sample((7, 1), cameras, poses=[pose], fill=0.75)
    a, b, c = (sample.vertices[load_rodent().faces[:, i]] for i in range(3))
    volume = abs(float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum())) / 6
    model = Reconstructor.load().from_views(composite(rgba_tensor(list(sample.pictures)), 1.0), cameras)
    assert model.body.volume == pytest.approx(volume, rel=0.12)


quaternions = st.tuples(*[st.floats(-1, 1)] * 4).filter(lambda q: sum(v * v for v in q) > 0.1)


@settings(max_examples=20, deadline=None)
@given(quaternions, st.floats(0.3, 3), st.tuples(*[st.floats(-2, 2)] * 3))
def test_place_heading_and_size_do_not_change_the_embedding(
    quaternion: tuple[float, ...], size: float, place: tuple[float, ...]
) -> None:
    draws = torch.Generator().manual_seed(0)
    points, weights = torch.randn(300, 3, generator=draws) * torch.tensor([1.0, 0.5, 0.3]), torch.rand(300, generator=draws)
    turn = rotation_matrices(torch.tensor([quaternion]))[0]
    moved = size * points @ turn.T + torch.tensor(place)
    torch.testing.assert_close(spectrum(moved, weights), spectrum(points, weights), rtol=2e-3, atol=2e-5)


def test_the_embedding_tells_postures_apart_and_its_lowest_degree_is_the_mass() -> None:
    draws = torch.Generator().manual_seed(0)
    long, round_ = (torch.randn(3000, 3, generator=draws) * torch.tensor(s) for s in ((1.0, 0.3, 0.3), (0.6, 0.6, 0.6)))
    again = torch.randn(3000, 3, generator=draws) * torch.tensor((1.0, 0.3, 0.3))
    weights = torch.ones(3000)
    apart, noise = (float((spectrum(long, weights) - spectrum(p, weights)).norm()) for p in (round_, again))
    assert apart > 4 * noise
    degree_0 = spectrum(round_, weights).reshape(SHELLS, -1)[:, 0]
    offset = (round_ - round_.mean(0)).norm(dim=1)
    shell = torch.exp(-0.5 * ((offset / offset.square().mean().sqrt() - 0.25) / 0.2) ** 2).mean()
    assert float(degree_0[0]) == pytest.approx(float(shell) / math.sqrt(4 * math.pi), rel=1e-4), "c_00 = mass / sqrt(4 pi)"


def gltf_columns(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The tree of a binary glTF file and its only primitive's attributes."""
    data = path.read_bytes()
    magic, version, total, length, kind = struct.unpack_from("<4sIII4s", data)
    assert (magic, version, total, kind) == (b"glTF", 2, len(data), b"JSON") and length % 4 == 0
    tree, binary, columns = json.loads(data[20 : 20 + length]), data[28 + length :], {}
    for name, number in tree["meshes"][0]["primitives"][0]["attributes"].items():
        accessor = tree["accessors"][number]
        view = tree["bufferViews"][accessor["bufferView"]]
        table = np.frombuffer(binary, "<f4", view["byteLength"] // 4, view["byteOffset"])
        columns[name] = torch.from_numpy(table.reshape(accessor["count"], -1).copy())
    return tree, columns


def test_every_format_holds_the_same_animal(ball: tuple[Gaussians, Body], tmp_path: Path) -> None:
    gaussians, body = ball
    files = save_as(FORMATS, gaussians, body, tmp_path, millimetres=40.0)
    save_ply(gaussians, tmp_path / "plain.ply")
    size = {f.name: f.stat().st_size / len(gaussians) for f in [*files, tmp_path / "plain.ply"]}
    assert size["animal.splat"] == 32 and size["animal.compressed.ply"] < 18 and size["plain.ply"] < 60, size
    assert len(load_ply(tmp_path / "plain.ply")) == len(gaussians)
    assert b"element sh" not in (tmp_path / "animal.compressed.ply").read_bytes(), "elements of no bytes hang the viewer"
    for kind in ("glb", "obj"):
        mesh = trimesh.load(tmp_path / f"animal.{kind}", force="mesh")
        assert mesh.is_watertight and mesh.volume == pytest.approx(body.volume * 0.04**3, rel=0.05), "cubic metres, outward faces"
        grey = 55 if kind == "glb" else 128  # glTF's colours are linear light: 0.5 on a display is 0.214 there
        colours = mesh.visual.vertex_colors[:, :3] if kind == "obj" else 255 * gltf_columns(tmp_path / "animal.glb")[1]["COLOR_0"]
        assert np.abs(np.asarray(colours) - grey).max() <= 1


def test_spz_and_sog_are_small_and_read_back(tmp_path: Path) -> None:
    gaussians = skin((0.2, 0.3, 0.5))
    for file in save_as(("spz", "sog"), gaussians, carved(gaussians), tmp_path):
        assert file.stat().st_size / len(gaussians) < 20
        back = gaussforge.GaussForge().convert(file.read_bytes(), file.suffix[1:], "ply")
        (tmp_path / "back.ply").write_bytes(back["data"])
        table = PlyData.read(tmp_path / "back.ply")["vertex"]
        xyz = torch.from_numpy(np.stack([table[axis] for axis in "xyz"], 1))
        assert float(torch.cdist(gaussians.xyz, xyz).amin(1).max()) < 1e-3


def test_gltf_holds_the_gaussians_as_the_extension_asks(tmp_path: Path) -> None:
    """Read by hand from the ratified text: linear scales, opacities, (x, y, z, w), Y up, metres."""
    draws = torch.Generator().manual_seed(0)
    gaussians = replace(
        skin((0.2, 0.3, 0.5), 300), rotations=torch.randn(300, 4, generator=draws), log_scales=torch.randn(300, 3) - 4
    )
    save_as(("splats.glb",), gaussians, carved(gaussians), tmp_path, millimetres=40.0)
    tree, column = gltf_columns(tmp_path / "animal.splats.glb")
    (primitive,) = tree["meshes"][0]["primitives"]
    assert tree["extensionsUsed"] == ["KHR_gaussian_splatting"] and primitive["mode"] == 0
    assert set(primitive["extensions"]["KHR_gaussian_splatting"]) == {"kernel", "colorSpace"}

    up = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
    torch.testing.assert_close(column["POSITION"], 0.04 * gaussians.xyz @ up.T)
    turned = rotation_matrices(column["KHR_gaussian_splatting:ROTATION"][:, [3, 0, 1, 2]])
    scaled = turned * column["KHR_gaussian_splatting:SCALE"][:, None]
    torch.testing.assert_close(scaled @ scaled.mT, 0.04**2 * up @ gaussians.covariances @ up.T, rtol=1e-4, atol=1e-9)
    torch.testing.assert_close(column["KHR_gaussian_splatting:OPACITY"], gaussians.opacities)
    torch.testing.assert_close(column["COLOR_0"][:, :3], torch.full((300, 3), 0.21404), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(column["KHR_gaussian_splatting:SH_DEGREE_0_COEF_0"], gaussians.sh[:, 0])
    assert trimesh.load(tmp_path / "animal.splats.glb").geometry, "a program without the extension shows points"


def test_meshes_stand_along_y_as_gltf_asks(tmp_path: Path) -> None:
    gaussians = skin((0.2, 0.3, 0.5))
    save_as(("glb",), gaussians, carved(gaussians), tmp_path)
    extents = trimesh.load(tmp_path / "animal.glb", force="mesh").extents
    assert extents == pytest.approx([0.44, 1.04, 0.64], abs=0.06)


def test_gaussians_that_enclose_nothing_are_no_mesh(tmp_path: Path) -> None:
    faint = replace(skin((0.2, 0.3, 0.5), 300), opacity_logits=torch.full((300, 1), -2.0), log_scales=torch.full((300, 3), -4.0))
    with pytest.raises(InputError, match="too faint to enclose a body"):
        save_as(("glb",), faint, carved(faint), tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_unknown_format_is_refused(ball: tuple[Gaussians, Body], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'stl' is no format; choose of splat, compressed\.ply, spz, sog, splats\.glb, glb, obj"):
        save_as(("stl",), *ball, tmp_path)
