"""Losses, filters, spherical harmonics, PLY and cameras of the original GS-LRM."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from parity import parity_file
from safetensors.torch import load_file

from mvfl.config.gslrm import GslrmFinetuning, GslrmLosses
from mvfl.geometry.cameras import turntable
from mvfl.geometry.rig import load_rig
from mvfl.geometry.tensors import camera_tensors
from mvfl.gslrm.checkpoint import load_gslrm
from mvfl.gslrm.gaussians import Gaussians, evaluate_sh, filter_indices, rotation_matrices
from mvfl.gslrm.losses import VGG_CHANNELS, PixelGaussians, Targets, Vgg19, gslrm_loss, load_vgg, losses_at
from mvfl.gslrm.model import Gslrm, GslrmConfig, pixel_rays
from mvfl.gslrm.ply import load_ply, save_ply
from mvfl.gslrm.rendering import Rendering
from mvfl.metrics.image import full_psnr, full_ssim
from mvfl.runtime.files import InputError


@pytest.fixture(scope="module")
def io() -> dict[str, torch.Tensor]:
    return load_file(parity_file("gslrm_misc/losses_render_io.safetensors"))


@pytest.fixture(scope="module")
def table() -> dict:
    return json.loads(parity_file("gslrm_misc/losses_render.json").read_text())


@pytest.fixture(scope="module")
def vgg() -> Vgg19:
    """The network with the formula's weights of parity section 6.1."""
    model = Vgg19()
    channels = (3, *VGG_CHANNELS)
    for i, out in enumerate(VGG_CHANNELS, 1):
        inputs = channels[i - 1]
        k = np.arange(out * inputs * 9, dtype=np.float64)
        x = 43758.5453 * np.sin((k + 1) * 12.9898 + i * 78.233)
        weight = (x - np.floor(x) - 0.5) * np.sqrt(12) * np.sqrt(2 / (9 * inputs))
        layer = model.get_submodule(f"conv{i}")
        layer.weight.data = torch.from_numpy(weight.reshape(out, inputs, 3, 3)).float()
        layer.bias.data = torch.from_numpy(0.01 * np.sin(np.arange(out) + 1 + i)).float()
    return model


def rendered(images: torch.Tensor) -> Rendering:
    """Renderings whose opacity no term of the loss asks for."""
    return Rendering(images, torch.zeros_like(images[:, :, :1]))


def test_perceptual_features_are_the_original_ones(vgg: Vgg19, io: dict, table: dict) -> None:
    features = vgg(io["target_rgba"].flatten(0, 1)[:, :3])[1:]
    means = [float(f.abs().mean()) for f in features]
    assert means == pytest.approx(table["vgg_feature_mean_abs_of_target"], rel=1e-5)


def test_the_loss_network_is_read_out_of_a_published_checkpoint(vgg: Vgg19, tmp_path: Path) -> None:
    """Trained with the perceptual term, the original carries 32 further entries, which the network itself does not load."""
    model = Gslrm(GslrmConfig(32, patch_size=8, width=64, layers=1, head_width=32))
    carried = {f"loss_calculator.perceptual_loss_module.net.{k}": v for k, v in vgg.state_dict().items()}
    torch.save({"model": {**model.state_dict(), **carried}, "param_update_step": 1, "head_width": 32}, tmp_path / "ckpt.pt")
    found = load_vgg(tmp_path / "ckpt.pt").state_dict()
    assert found.keys() == vgg.state_dict().keys() and all(torch.equal(found[k], v) for k, v in vgg.state_dict().items())
    assert load_gslrm(tmp_path / "ckpt.pt", 32).state_dict().keys() == model.state_dict().keys()
    torch.save({"model": model.state_dict(), "head_width": 32}, tmp_path / "ckpt.pt")
    with pytest.raises(InputError, match=r"ckpt\.pt holds no VGG-19: the perceptual term needs its weights"):
        load_vgg(tmp_path / "ckpt.pt")


@pytest.mark.parametrize("tag", ["masked", "unmasked"])
def test_losses_and_their_gradients_are_the_original_ones(tag: str, vgg: Vgg19, io: dict, table: dict) -> None:
    weights = GslrmLosses(l2=1, perceptual=0.5, ssim=0.2, pixelalign=0.1, pointsdist=0.05, vgg_path=Path("given"))
    images = io["rendering"].clone().requires_grad_()
    xyz = io["img_aligned_xyz"].clone().requires_grad_()
    rays = pixel_rays(io["c2w"], io["fxfycxcy"], 32, 32)
    targets = Targets(io["target_rgba"][:, :, :3], io["target_rgba"][:, :, 3:])
    got = gslrm_loss(weights, rendered(images), targets, PixelGaussians(xyz, rays), mask_pixelalign=tag == "masked", vgg=vgg)
    expected = table[tag]
    for term in ("l2", "perceptual", "ssim", "pixelalign", "pointsdist"):
        assert float(got.terms[term].detach()) == pytest.approx(expected[f"{term}_loss"], rel=3e-6), term
    assert float(got.total.detach()) == pytest.approx(expected["loss"], rel=1e-6)
    got.total.backward()
    torch.testing.assert_close(images.grad, io[f"{tag}.grad_rendering"], atol=1e-8, rtol=1e-3)
    torch.testing.assert_close(xyz.grad, io[f"{tag}.grad_xyz"], atol=1e-8, rtol=1e-3)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_spherical_harmonics(degree: int, io: dict) -> None:
    coefficients = io[f"sh.coef{degree}"].transpose(1, 2)
    torch.testing.assert_close(evaluate_sh(coefficients, io["sh.dirs"]), io[f"sh.value{degree}"], atol=1e-6, rtol=0)


def test_rotation_matrices_of_quaternions(io: dict) -> None:
    torch.testing.assert_close(rotation_matrices(io["quat"]), io["quat.R"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["inference", "validation", "nearfar"])
def test_filters_keep_exactly_the_original_indices(name: str, io: dict, table: dict) -> None:
    g = Gaussians(*(io[f"filter.{k}"] for k in ("xyz", "features", "scaling", "rotation", "opacity")))
    s = table["filters"][name]
    kept = filter_indices(
        g, s.get("opacity_thres"), s.get("scaling_thres"), s.get("floater_thres"),
        tuple(s["crop_bbx"]) if s["crop_bbx"] else None,
        io["filter.cam_origins"] if s["cam_origins"] else None, tuple(s["nearfar_percent"]),
    )  # fmt: skip
    assert kept.tolist() == io[f"filter.kept.{name}"].tolist()


@pytest.mark.parametrize("degree", [0, 1])
def test_ply_files_are_the_original_bytes_and_read_back(degree: int, io: dict, tmp_path: Path) -> None:
    g = Gaussians(*(io[f"ply_sh{degree}.{k}"] for k in ("xyz", "features", "scaling", "rotation", "opacity")))
    save_ply(g, tmp_path / "mine.ply", published=True)
    original = parity_file(f"gslrm_misc/example_sh{degree}.ply").read_bytes()
    assert (tmp_path / "mine.ply").read_bytes().split(b"end_header\n", 1)[1] == original.split(b"end_header\n", 1)[1]
    again = load_ply(tmp_path / "mine.ply", degree)
    torch.testing.assert_close(again.sh, g.sh, atol=0, rtol=0)
    save_ply(again, tmp_path / "again.ply", published=True)
    assert (tmp_path / "again.ply").read_bytes() == (tmp_path / "mine.ply").read_bytes()
    save_ply(g, tmp_path / "small.ply")
    small = load_ply(tmp_path / "small.ply", degree)
    assert all(torch.equal(a, b) for a, b in zip(vars(small).values(), vars(again).values(), strict=True))
    if degree == 0:
        header = (tmp_path / "small.ply").read_bytes().index(b"end_header\n") + len(b"end_header\n")
        assert ((tmp_path / "small.ply").stat().st_size - header) / len(g) == 59, "bytes a Gaussian; the original has 239"


def test_the_published_inference_cameras_are_the_facelift_rig() -> None:
    stored = load_file(parity_file("gslrm_misc/inference_cameras.safetensors"))
    c2w, intrinsics = camera_tensors(load_rig("facelift").cameras)
    torch.testing.assert_close(c2w, stored["c2w"], atol=1e-6, rtol=0)
    torch.testing.assert_close(intrinsics, stored["fxfycxcy"], atol=1e-3, rtol=0)


@pytest.mark.parametrize("elevation", [0, 20])
def test_turntables_are_the_original_ones(elevation: int, io: dict) -> None:
    c2w, intrinsics = camera_tensors(turntable(8, float(elevation)))
    torch.testing.assert_close(c2w.double(), io[f"turntable.el{elevation}.c2w"], atol=1e-6, rtol=0)
    torch.testing.assert_close(intrinsics.double(), io[f"turntable.el{elevation}.fxfycxcy"], atol=1e-3, rtol=0)


def test_masked_l2_counts_pixels_inside_the_mask_only(io: dict) -> None:
    images, target, alpha = io["rendering"], io["target_rgba"][:, :, :3], io["target_rgba"][:, :, 3:]
    inside = (alpha > 0.5).expand_as(images)
    expected = (images - target).square()[inside].mean()
    weights = GslrmLosses(l2=0, masked_l2=2.0)
    got = gslrm_loss(weights, rendered(images), Targets(target, alpha))
    assert float(got.total) == pytest.approx(2 * float(expected), rel=1e-5)
    elsewhere = torch.where(inside, images, torch.rand_like(images))
    assert torch.equal(gslrm_loss(weights, rendered(elsewhere), Targets(target, alpha)).total, got.total)


def test_warm_ups_switch_terms_off_at_first() -> None:
    losses = GslrmLosses(l2=1, perceptual=0.5, ssim=0.2, vgg_path=Path("given"))
    settings = GslrmFinetuning(losses=losses, pointsdist_warmup_steps=10, l2_warmup_steps=20)
    weights = lambda step: (lambda l: (l.l2, l.perceptual, l.ssim, l.pointsdist))(losses_at(settings, step))  # noqa: E731, E741
    assert weights(9) == (0, 0, 0.2, 0.1)
    assert weights(10) == (1, 0, 0.2, 0)
    assert weights(20) == (1, 0.5, 0.2, 0)


def test_whole_picture_metrics_are_those_that_the_original_reports(io: dict, table: dict) -> None:
    images, truth = io["rendering"].flatten(0, 1).clamp(0, 1), io["target_rgba"].flatten(0, 1)[:, :3]
    assert full_psnr(images, truth).tolist() == pytest.approx(table["metric_psnr"], rel=1e-6)
    assert full_ssim(images, truth).tolist() == pytest.approx(table["metric_ssim_skimage"], rel=1e-6)
