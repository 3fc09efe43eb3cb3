"""Gaussians fitted to the pictures they were made from look more like the object from everywhere."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from mvfl.config.bases import EMBEDDED
from mvfl.geometry.cameras import orbit_camera
from mvfl.geometry.tensors import camera_tensors
from mvfl.gslrm.checkpoint import load_gslrm
from mvfl.gslrm.fitting import fitted
from mvfl.gslrm.gaussians import Gaussians
from mvfl.gslrm.rendering import render
from mvfl.gslrm.scoring import infer, score_pictures
from mvfl.gslrm.views import Views
from mvfl.stages.reconstructor import Reconstructor

SIZE = 48


def ball(grey: float, radius: float) -> Gaussians:
    """Opaque Gaussians on a sphere."""
    count = 600
    i = torch.arange(count) + 0.5
    z, turn = 1 - 2 * i / count, math.pi * (1 + 5**0.5) * i
    flat = (1 - z * z).sqrt()
    xyz = radius * torch.stack([flat * turn.cos(), flat * turn.sin(), z], 1)
    sh = torch.full((count, 1, 3), (grey - 0.5) / 0.28209479)
    turned = torch.tensor([[1.0, 0, 0, 0]]).repeat(count, 1)
    return Gaussians(xyz, sh, torch.full((count, 3), math.log(0.04)), turned, torch.full((count, 1), 3.0))


def seen(gaussians: Gaussians, azimuths: list[float]) -> Views:
    """Pictures of Gaussians from around."""
    c2w, intrinsics = camera_tensors([orbit_camera(a, 20.0, size=SIZE) for a in azimuths])
    drawn = render(gaussians, c2w, intrinsics, SIZE, SIZE, "torch")
    return Views(drawn.images.clamp(0, 1), drawn.alphas.clamp(0, 1), c2w, intrinsics)


def test_what_was_guessed_gets_nearer_to_the_object_where_no_camera_looked() -> None:
    truth, guess = ball(0.3, 0.5), ball(0.45, 0.53)
    inputs, unseen = seen(truth, [0, 90, 180, 270]), seen(truth, [45, 225])

    def score(gaussians: Gaussians) -> float:
        drawn = render(gaussians, unseen.c2w, unseen.intrinsics, SIZE, SIZE, "torch").images
        return score_pictures(drawn.clamp(0, 1), unseen)["foreground_psnr"]

    better = fitted(guess, inputs, 60, "torch")
    assert score(better) > score(guess) + 3
    assert not any(value.requires_grad for value in vars(better).values()) and len(better) == len(guess)
    again = fitted(guess, inputs, 60, "torch")
    assert all(torch.equal(a, b) for a, b in zip(vars(better).values(), vars(again).values(), strict=True)), "no randomness"


def test_a_network_fits_as_it_is_configured_and_never_while_it_is_trained() -> None:
    weights = EMBEDDED / "gslrm" / "gslrm.safetensors"
    model, fitting = load_gslrm(weights, SIZE), load_gslrm(weights, SIZE, fit_steps=2)
    inputs = Views.stacked([seen(ball(0.3, 0.5), [0, 120, 240])])
    plain, exact = infer(model, inputs).gaussians[0], infer(fitting, inputs).gaussians[0]
    assert not torch.equal(plain.xyz, exact.xyz) and torch.allclose(plain.xyz, exact.xyz, atol=2e-3)
    trained = fitting(inputs.images, inputs.c2w, inputs.intrinsics).gaussians[0]
    torch.testing.assert_close(trained.xyz, plain.xyz)


@pytest.mark.parametrize("steps", [None, 0, 7])
def test_the_steps_are_the_models_own_or_those_that_are_asked_for(steps: int | None, tiny_base: Path) -> None:
    base = tiny_base.parent / "pipeline"
    loaded = Reconstructor.load(base, fit_steps=steps)
    assert loaded.gslrm.config.fit_steps == (steps or 0)
    assert (loaded.mark == Reconstructor.load(base).mark) is not bool(steps), "a model made otherwise is made anew"
