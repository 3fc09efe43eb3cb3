"""The torch reference rasteriser against closed forms, and its gradients against finite differences."""

from __future__ import annotations

import math
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from mvfl.geometry.cameras import orbit_camera
from mvfl.geometry.tensors import camera_tensors
from mvfl.gslrm.export import save_film
from mvfl.gslrm.gaussians import SH_C0, Gaussians
from mvfl.gslrm.ply import load_ply, save_ply
from mvfl.gslrm.rendering import BLUR, render, render_objects
from mvfl.stages.models_page import _Stored


def one(xyz: list[float], scale: float, opacity: float, colour: list[float]) -> Gaussians:
    return Gaussians(
        torch.tensor([xyz]).float(), (torch.tensor([[colour]]) - 0.5) / SH_C0, torch.full((1, 3), math.log(scale)),
        torch.tensor([[1.0, 0, 0, 0]]), torch.logit(torch.tensor([[opacity]])),
    )  # fmt: skip


def joined(*parts: Gaussians) -> Gaussians:
    return Gaussians(*(torch.cat([getattr(p, f) for p in parts]) for f in vars(parts[0])))


CAMERA = camera_tensors([orbit_camera(0, 0, size=65)])


def test_one_gaussian_has_its_closed_form() -> None:
    scale, opacity = 0.1, 0.8
    out = render(one([0, 0, 0], scale, opacity, [0.2, 0.4, 0.6]), *CAMERA, 65, 65)
    focal = float(CAMERA[1][0, 0])
    variance = (focal * scale / 2.7) ** 2 + BLUR
    rows = torch.arange(65) + 0.5 - 32.5
    expected = opacity * torch.exp(-0.5 * rows**2 / variance)
    seen = out.alphas[0, 0, 32]
    inside = expected > 2 / 255
    torch.testing.assert_close(seen[inside], expected[inside], atol=1e-5, rtol=0)
    assert float(out.images[0, 0, 32, 32]) == pytest.approx(0.2 * opacity + 1 - opacity, abs=1e-5)


def test_the_nearer_gaussian_covers_the_farther_one_whatever_the_order() -> None:
    near, far = one([0.5, 0, 0], 0.2, 0.9, [1, 0, 0]), one([-0.5, 0, 0], 0.2, 0.9, [0, 0, 1])
    a = render(joined(near, far), *CAMERA, 65, 65).images
    b = render(joined(far, near), *CAMERA, 65, 65).images
    torch.testing.assert_close(a, b)
    red, _, blue = a[0, :, 32, 32]
    assert red > 0.89 and blue == pytest.approx(0.1 * 0.9 + 0.1 * 0.1, abs=1e-3)


def test_what_lies_behind_the_camera_is_not_drawn() -> None:
    out = render(one([5, 0, 0], 0.2, 0.9, [1, 0, 0]), *CAMERA, 65, 65)
    assert torch.equal(out.images, torch.ones_like(out.images))


def test_gradients_agree_with_finite_differences() -> None:
    torch.manual_seed(0)
    leaves = [
        torch.randn(12, 3) * 0.15, torch.randn(12, 1, 3), torch.full((12, 3), -2.5) + 0.2 * torch.randn(12, 3),
        torch.randn(12, 4), torch.randn(12, 1),
    ]  # fmt: skip
    leaves = [leaf.double().requires_grad_() for leaf in leaves]
    target = torch.rand(1, 3, 24, 24, dtype=torch.double)
    cameras = [t.double() for t in camera_tensors([orbit_camera(20, 15, size=24)])]

    def loss() -> torch.Tensor:
        return (render(Gaussians(*leaves), *cameras, 24, 24).images - target).square().mean()

    loss().backward()
    generator = torch.Generator().manual_seed(1)
    for leaf in leaves:
        for _ in range(3):
            index = tuple(int(torch.randint(n, (1,), generator=generator)) for n in leaf.shape)
            step = 1e-5
            with torch.no_grad():
                leaf[index] += step
                up = loss()
                leaf[index] -= 2 * step
                down = loss()
                leaf[index] += step
            numeric = float((up - down) / (2 * step))
            assert float(leaf.grad[index]) == pytest.approx(numeric, rel=2e-2, abs=2e-7)


def cloud(seed: int, device: str, sh_degree: int = 0) -> list[torch.Tensor]:
    """Leaves of 400 random Gaussians."""
    g = torch.Generator().manual_seed(seed)
    randn = lambda *shape: torch.randn(*shape, generator=g)  # noqa: E731
    colours = randn(400, (sh_degree + 1) ** 2, 3)
    fields = (randn(400, 3) * 0.2, colours, -3.5 + 0.5 * randn(400, 3), randn(400, 4), randn(400, 1))
    return [t.to(device).requires_grad_() for t in fields]


def two_objects(device: str, sh_degree: int = 0) -> tuple[list[list[torch.Tensor]], torch.Tensor, torch.Tensor]:
    """Leaves of two objects, each with two cameras of its own."""
    pairs = [camera_tensors([orbit_camera(a, 20, size=96) for a in angles]) for angles in ((0, 100), (40, 250))]
    c2w, intrinsics = (torch.stack(t).to(device) for t in zip(*pairs, strict=True))
    return [cloud(seed, device, sh_degree) for seed in (0, 1)], c2w, intrinsics


def test_objects_drawn_together_look_as_drawn_alone() -> None:
    leaves, c2w, intrinsics = two_objects("cpu")
    objects = [Gaussians(*fields) for fields in leaves]
    together = render_objects(objects, c2w, intrinsics, 96, 96)
    for i, gaussians in enumerate(objects):
        alone = render(gaussians, c2w[i], intrinsics[i], 96, 96)
        assert torch.equal(together.images[i], alone.images) and torch.equal(together.alphas[i], alone.alphas)


def test_a_film_shows_the_object_turning_once(tmp_path: Path) -> None:
    spot = one([0.4, 0.0, 0.0], 0.08, 0.98, [0.1, 0.1, 0.1])
    save_film([spot], tmp_path / "film.mp4", views=8, size=64, renderer="torch")
    with av.open(str(tmp_path / "film.mp4")) as film:
        frames = [frame.to_ndarray(format="gray") for frame in film.decode(video=0)]
        assert film.streams.video[0].average_rate == 30
    columns = [float(np.average(np.arange(64), weights=(255 - f.astype(float)).sum(0) + 1e-9)) for f in frames]
    assert len(frames) == 8 and max(columns) - min(columns) > 8, "the spot wanders to both sides"


def test_a_film_of_many_models_reads_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, read = [tmp_path / "dark.ply", tmp_path / "light.ply"], []
    for file, grey in zip(files, (0.1, 0.6), strict=True):
        save_ply(one([0.0, 0.0, 0.0], 0.2, 0.98, [grey] * 3), file)
    monkeypatch.setattr("mvfl.stages.models_page.load_ply", lambda file: [read.append(file.stem), load_ply(file)][1])
    save_film(_Stored(files), tmp_path / "film.mp4", views=12, size=64)
    # The type check of the tests looks at a random model before and after the call: up to two readings more.
    assert 4 <= len(read) <= 6, "once for the size of the picture, once for its frames; not once a frame"
    with av.open(str(tmp_path / "film.mp4")) as film:
        darkest = [int(frame.to_ndarray(format="gray").min()) for frame in film.decode(video=0)]
    assert len(darkest) == 12 and max(darkest[:6]) + 60 < min(darkest[6:]), "half of the frames for each"
