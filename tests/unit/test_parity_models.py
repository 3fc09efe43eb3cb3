"""The published models: same names, same numbers (data made by the original program)."""

from __future__ import annotations

import json

import diffusers
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer
from parity import parity_file, parity_tensors
from PIL import Image
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection

from mvfl.gslrm.model import Gslrm, GslrmConfig, freeze, pixel_rays
from mvfl.mvdiffusion.conditioning import drop_masks, image_class_labels, snr_weights
from mvfl.mvdiffusion.encoding import clip_pixels
from mvfl.mvdiffusion.objective import Batch, Draws, Objective
from mvfl.mvdiffusion.pipeline import MultiViewPipeline
from mvfl.mvdiffusion.unet import build_unet, with_view_conditioning
from mvfl.runtime.files import InputError
from mvfl.runtime.weights import load_strictly
from mvfl.stages.original import original_config

NETWORK_LIMIT = 2e-5


def read(name: str, *keys: str) -> dict[str, torch.Tensor]:
    return parity_tensors(name, *keys)


def settings(name: str) -> dict:
    return json.loads(parity_file(name).read_text())


@pytest.fixture(scope="module")
def unet():
    model = build_unet(settings("unet_tiny/config.json")["constructor"])
    load_strictly(model, read("unet_tiny/weights.safetensors"), "unet_tiny")
    return model.eval()


@pytest.mark.parametrize(
    ("multiview", "sparse", "expected"), [(True, True, "output"), (True, False, "output_dense"), (False, False, "output_perview")]
)
@torch.no_grad()
def test_the_unet_gives_the_original_output_in_each_attention_mode(multiview: bool, sparse: bool, expected: str) -> None:
    config = settings("unet_tiny/config.json")["constructor"]
    model = build_unet({**config, "multiview_attention": multiview, "sparse_mv_attention": sparse}).eval()
    load_strictly(model, read("unet_tiny/weights.safetensors"), "unet_tiny")
    io = read("unet_tiny/io.safetensors")
    out = model(io["sample"], io["timestep"], io["encoder_hidden_states"], class_labels=io["class_labels"]).sample
    torch.testing.assert_close(out, io[expected], atol=NETWORK_LIMIT, rtol=0)


@torch.no_grad()
def test_every_module_of_the_unet_gives_the_original_intermediate_output(unet) -> None:
    io = read("unet_tiny/io.safetensors")
    wanted = {k.removeprefix("inter."): v for k, v in io.items() if k.startswith("inter.")}
    seen = {}

    def hook(name: str):
        def keep(_module, _inputs, output) -> None:
            seen[name] = output[0] if isinstance(output, tuple) else getattr(output, "sample", output)

        return keep

    handles = [unet.get_submodule(name).register_forward_hook(hook(name)) for name in wanted]
    unet(io["sample"], io["timestep"], io["encoder_hidden_states"], class_labels=io["class_labels"])
    for handle in handles:
        handle.remove()
    for name, value in wanted.items():
        torch.testing.assert_close(seen[name], value, atol=NETWORK_LIMIT, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


def test_the_full_size_unet_has_the_listed_tensors() -> None:
    listed = settings("unet_full.json")
    with torch.device("meta"):
        model = build_unet(listed["constructor"])
    assert {k: list(v.shape) for k, v in model.state_dict().items()} == {k: v["shape"] for k, v in listed["state_dict"].items()}
    assert sum(p.numel() for p in model.parameters()) == listed["total_parameters"] == 870_184_644


def test_the_full_size_gslrm_has_the_listed_tensors() -> None:
    listed = settings("gslrm_full.json")
    with torch.device("meta"):
        model = Gslrm(GslrmConfig())
    assert {k: list(v.shape) for k, v in model.state_dict().items()} == {k: v["shape"] for k, v in listed["state_dict"].items()}
    assert sum(p.numel() for p in model.parameters()) == listed["total_parameters"] == 303_565_824


@pytest.mark.parametrize(("until", "share"), [(20, 51.3e6), (22, 26.1e6), (24, 0.93e6)])
def test_freezing_leaves_the_published_number_of_parameters(until: int, share: float) -> None:
    with torch.device("meta"):
        model = Gslrm(GslrmConfig())
    freeze(model, until, patch_embedder=True, positional_embeddings=until > 20)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == pytest.approx(share, rel=0.01)


@pytest.fixture(scope="module")
def components() -> dict:
    config = settings("diffusion_tiny/config.json")
    state = read("diffusion_tiny/components.safetensors")
    part = lambda prefix: {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}  # noqa: E731
    vae = AutoencoderKL(**config["vae_config"]).eval()
    load_strictly(vae, part("vae."), "vae")
    vision = CLIPVisionModelWithProjection(CLIPVisionConfig(**config["clip_vision_config"])).eval()
    prefixes = sorted({k.split(".")[0] for k in state})
    encoder = next(p for p in prefixes if p not in ("vae",) and any("vision_model" in k for k in part(f"{p}.")))
    load_strictly(vision, {k: v for k, v in part(f"{encoder}.").items() if "position_ids" not in k}, "vision")
    normalizer = StableUnCLIPImageNormalizer(embedding_dim=32)
    rest = next(p for p in prefixes if p not in ("vae", encoder))
    load_strictly(normalizer, part(f"{rest}."), "normalizer")
    processor = config["clip_image_processor"]
    return {
        "vae": vae, "vision": vision, "normalizer": normalizer, "config": config,
        "noising": DDPMScheduler(**config["image_noising_scheduler"]),
        "processor": CLIPImageProcessorPil(
            size=processor["size"], crop_size={"height": 32, "width": 32}, resample=3,
            image_mean=processor["image_mean"], image_std=processor["image_std"],
        ),
        "ddim": DDIMScheduler(**config["scheduler_common"], **config["ddim_extra"]),
        "ddpm": DDPMScheduler(**config["scheduler_common"]),
    }  # fmt: skip


@pytest.mark.parametrize("level", [0, 1, 37, 500, 999])
def test_image_embeddings_are_noised_as_published(components: dict, level: int) -> None:
    io = read("diffusion_tiny/embed_noising.safetensors")
    torch.testing.assert_close(components["noising"].alphas_cumprod, io["alphas_cumprod"], atol=1e-7, rtol=0)
    labels = image_class_labels(io["image_embeds"], io[f"noise.{level}"], level, components["normalizer"], components["noising"])
    torch.testing.assert_close(labels, io[f"class_labels.{level}"], atol=2e-6, rtol=0)


@pytest.mark.parametrize("run", ["pipeline_cfg", "pipeline_nocfg"])
def test_sampling_repeats_the_original_pictures(components: dict, unet, run: str) -> None:
    io = read(f"diffusion_tiny/{run}.safetensors")
    options = components["config"]["runs"][run]
    pipeline = MultiViewPipeline(
        unet=unet, vae=components["vae"], image_encoder=components["vision"], feature_extractor=components["processor"],
        image_normalizer=components["normalizer"], image_noising_scheduler=components["noising"], scheduler=components["ddim"],
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    image = Image.fromarray(io["input_image_u8"].numpy()) if "input_image_u8" in io else io["input_image"]
    out = pipeline(
        image, io["prompt_embeds"], num_inference_steps=options["num_inference_steps"], guidance_scale=options["guidance_scale"],
        eta=options["eta"], generator=torch.Generator().manual_seed(options["generator_seed"]),
    ).images  # fmt: skip
    assert components["ddim"].timesteps.tolist() == options["timesteps"]
    torch.testing.assert_close(out, io["images"], atol=NETWORK_LIMIT, rtol=0)


@pytest.mark.parametrize(
    "name", ["DDIMScheduler", "DPMSolverMultistepScheduler", "EulerDiscreteScheduler", "UniPCMultistepScheduler"]
)
def test_any_scheduler_of_diffusers_draws_pictures(components: dict, unet, name: str) -> None:
    io = read("diffusion_tiny/pipeline_cfg.safetensors")
    pipeline = MultiViewPipeline(
        unet=unet, vae=components["vae"], image_encoder=components["vision"], feature_extractor=components["processor"],
        image_normalizer=components["normalizer"], image_noising_scheduler=components["noising"],
        scheduler=getattr(diffusers, name).from_config(components["ddim"].config),
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    picture = Image.fromarray((io["images"][0].permute(1, 2, 0) * 255).byte().numpy())
    draw = lambda: pipeline(  # noqa: E731
        picture, io["prompt_embeds"], num_inference_steps=4, guidance_scale=2.0, eta=0.0,
        generator=[torch.Generator().manual_seed(0)],
    ).images  # fmt: skip
    first = draw()
    assert first.isfinite().all() and first.std() > 0.01
    assert torch.equal(first, draw()), "the same generator draws the same pictures"


@pytest.fixture(scope="module")
def training_pass(components: dict, unet) -> tuple:
    io = read("diffusion_tiny/train_step.safetensors")
    vae, vision, processor = components["vae"], components["vision"], components["config"]["clip_image_processor"]
    scale = vae.config.scaling_factor
    with torch.no_grad():
        pixels = clip_pixels(io["imgs_in_front"], 32, processor["image_mean"], processor["image_std"])
        embeds = vision(pixels).image_embeds
        reference = vae.encode(2 * io["imgs_in_front"] - 1).latent_dist.mode() * scale
        moments = vae.encode(2 * io["imgs_out"].flatten(0, 1) - 1).latent_dist.parameters
    batch = Batch(moments, reference, embeds, io["prompt_embeds"][0], None)
    draws = Draws(
        io["draw.clip_noise"], io["draw.drop_u"], io["draw.vae_target_noise"], io["draw.diffusion_noise"],
        io["draw.timesteps_per_object"],
    )  # fmt: skip
    unet.zero_grad()
    objective = Objective(components["ddpm"], components["normalizer"], components["noising"], scale, 0.25, "published", 5.0)
    result = objective.loss(unet, batch, draws)
    result.loss.backward()
    return io, pixels, embeds, result


def test_the_training_step_sees_the_original_inputs(training_pass: tuple) -> None:
    io, pixels, embeds, result = training_pass
    torch.testing.assert_close(pixels, io["clip_pixel_values"], atol=2e-6, rtol=0)
    torch.testing.assert_close(embeds, io["clip_image_embeds"], atol=5e-6, rtol=0)
    torch.testing.assert_close(result.class_labels, io["class_labels"], atol=1e-5, rtol=0)
    torch.testing.assert_close(result.unet_input, io["unet_in"], atol=1e-5, rtol=0)


def test_the_training_step_gives_the_original_loss_weights_and_gradients(training_pass: tuple, components: dict, unet) -> None:
    io, _, _, result = training_pass
    torch.testing.assert_close(result.prediction, io["unet_out"], atol=NETWORK_LIMIT, rtol=0)
    torch.testing.assert_close(result.weights, io["snr_weight"], atol=0, rtol=1e-5)
    assert float(result.loss.detach()) == pytest.approx(components["config"]["train"]["loss"], rel=1e-6)
    gradients = dict(unet.named_parameters())
    for name, norm in components["config"]["train"]["grad_norms"].items():
        assert float(gradients[name].grad.norm()) == pytest.approx(norm, rel=1e-4, abs=1e-7), name
    for key, value in io.items():
        if key.startswith("grad."):
            torch.testing.assert_close(gradients[key.removeprefix("grad.")].grad, value, atol=1e-6, rtol=1e-3)


def test_snr_and_its_weight_match_the_listed_values(components: dict) -> None:
    table = settings("diffusion_tiny/snr.json")
    weights = snr_weights(components["ddpm"].alphas_cumprod, torch.tensor(table["timesteps"]), "published", table["gamma"])
    np.testing.assert_allclose(weights.numpy(), table["weight"], rtol=1e-5)


def test_conditions_are_dropped_in_three_equal_parts() -> None:
    u = torch.tensor([0.01, 0.049, 0.051, 0.099, 0.101, 0.149, 0.151, 0.9])
    labels, latents = drop_masks(u, 0.05)
    assert labels.tolist() == [False] * 4 + [True] * 4
    assert latents.tolist() == [True, True, False, False, False, False, True, True]


@pytest.fixture(scope="module")
def gslrm() -> Gslrm:
    model = Gslrm(GslrmConfig(image_size=32, width=64, head_width=16, layers=2)).eval()
    load_strictly(model, read("gslrm_tiny/weights.safetensors"), "gslrm_tiny")
    return model


@torch.no_grad()
def test_gslrm_gives_the_original_gaussians(gslrm: Gslrm) -> None:
    io = read("gslrm_tiny/io.safetensors")
    out = gslrm(io["image"][:, :, :3], io["c2w"], io["fxfycxcy"])
    torch.testing.assert_close(out.pixel_xyz, io["pixelalign_xyz"], atol=NETWORK_LIMIT, rtol=0)
    for b, g in enumerate(out.gaussians):
        pairs = {
            "gs.xyz": g.xyz, "gs.features": g.sh, "gs.scaling": g.log_scales, "gs.rotation": g.rotations,
            "gs.opacity": g.opacity_logits,
        }  # fmt: skip
        for name, value in pairs.items():
            torch.testing.assert_close(value, io[name][b], atol=NETWORK_LIMIT, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


@torch.no_grad()
def test_activated_gaussians_are_the_original_ones(gslrm: Gslrm) -> None:
    io = read("gslrm_tiny/io.safetensors", "act.scale", "act.covariance6")
    out = gslrm(io["image"][:, :, :3], io["c2w"], io["fxfycxcy"])
    for b, g in enumerate(out.gaussians):
        pairs = {"act.scale": g.scales, "act.rotation": g.quaternions, "act.opacity": g.opacities}
        for name, value in pairs.items():
            torch.testing.assert_close(value, io[name][b], atol=NETWORK_LIMIT, rtol=0, msg=lambda m, n=name: f"{n}: {m}")
        c = g.covariances
        six = torch.stack([c[:, 0, 0], c[:, 0, 1], c[:, 0, 2], c[:, 1, 1], c[:, 1, 2], c[:, 2, 2]], 1)
        torch.testing.assert_close(six, io["act.covariance6"][b], atol=1e-6, rtol=1e-4)


@torch.no_grad()
def test_gslrm_rays_and_tokens_are_the_original_ones(gslrm: Gslrm) -> None:
    io = read("gslrm_tiny/io.safetensors", "ray_d", "posed", "raw.all")
    rays = pixel_rays(io["c2w"], io["fxfycxcy"], 32, 32)
    torch.testing.assert_close(rays.directions, io["ray_d"], atol=1e-6, rtol=0)
    torch.testing.assert_close(rays.origins, io["ray_o"], atol=1e-6, rtol=0)
    torch.testing.assert_close(gslrm.input_channels(io["image"][:, :, :3], rays), io["posed"], atol=2e-6, rtol=0)
    free, pixel = gslrm.decode_raw(io["image"][:, :, :3], rays)
    torch.testing.assert_close(free, io["raw.free"], atol=NETWORK_LIMIT, rtol=0)
    torch.testing.assert_close(torch.cat([free, pixel], 1), io["raw.all"], atol=NETWORK_LIMIT, rtol=0)


@torch.no_grad()
def test_half_precision_never_moves_a_gaussian_off_its_ray(gslrm: Gslrm) -> None:
    io = read("gslrm_tiny/io.safetensors")
    exact = pixel_rays(io["c2w"], io["fxfycxcy"], 32, 32).directions
    with torch.autocast("cpu", torch.bfloat16):
        rays = pixel_rays(io["c2w"], io["fxfycxcy"], 32, 32)
        out = gslrm(io["image"][:, :, :3], io["c2w"], io["fxfycxcy"])
    torch.testing.assert_close(rays.directions, exact, atol=1e-6, rtol=0)
    offset = out.pixel_xyz - io["c2w"][..., :3, 3, None, None]
    across = offset - (offset * exact).sum(2, keepdim=True) * exact
    assert float(across.norm(dim=2).max()) < 1e-5


@torch.no_grad()
def test_clip_xyz_is_an_honest_option() -> None:
    io = read("gslrm_tiny/io.safetensors", "clip.xyz")
    model = Gslrm(GslrmConfig(image_size=32, width=64, head_width=16, layers=2, clip_xyz=True))
    load_strictly(model, read("gslrm_tiny/weights.safetensors"), "gslrm_tiny")
    out = model(io["image"][:, :, :3], io["c2w"], io["fxfycxcy"])
    for b, g in enumerate(out.gaussians):
        torch.testing.assert_close(g.xyz, io["clip.xyz"][b], atol=NETWORK_LIMIT, rtol=0)


def test_the_original_s_configuration_comes_back_as_it_was() -> None:
    published = settings("unet_tiny/config.json")["constructor"]
    written = original_config(build_unet(published))
    assert written.pop("_class_name") == "UNetMV2DConditionModel"
    assert written == published
    again = build_unet({"_class_name": "UNetMV2DConditionModel", **written})
    assert again.state_dict().keys() == build_unet(published).state_dict().keys()
    told = with_view_conditioning(build_unet(published), "rays")
    with pytest.raises(InputError, match="no exact copy of it in the original's layout"):
        original_config(told)
