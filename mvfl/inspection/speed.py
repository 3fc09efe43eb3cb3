"""`mvfl benchmark speed`: time and memory of the published models at full size, with random weights.

Nothing is read from disk, so it answers "does it fit, and how long is a step" before any weights are in place.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection

from mvfl.config.gslrm import GslrmLosses
from mvfl.geometry.rig import load_rig
from mvfl.geometry.tensors import camera_tensors
from mvfl.gslrm.losses import Targets, gslrm_loss
from mvfl.gslrm.model import Gslrm, GslrmConfig
from mvfl.gslrm.rendering import render_objects
from mvfl.mvdiffusion.conditioning import POSE_FEATURES, RAY_CHANNELS
from mvfl.mvdiffusion.objective import Batch, Objective, draw
from mvfl.mvdiffusion.pipeline import MultiViewPipeline
from mvfl.mvdiffusion.unet import build_unet, with_view_conditioning
from mvfl.runtime.progress import say

PIXELS, VIEWS, TOKENS, EMBEDDING = 512, 6, 77, 1024
# Constructor values of the published UNet (stable-diffusion-2-1-unclip with eight input channels).
PUBLISHED_UNET: dict[str, Any] = {
    "sample_size": PIXELS // 8, "in_channels": 8, "out_channels": 4, "center_input_sample": False,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "block_out_channels": [320, 640, 1280, 1280], "layers_per_block": 2, "cross_attention_dim": 1024,
    "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True, "class_embed_type": "projection",
    "projection_class_embeddings_input_dim": 2 * EMBEDDING, "upcast_attention": True,
}  # fmt: skip


def _median_step(step: Callable[[], None], repeats: int) -> tuple[float, float]:
    """Median seconds of a step after one warm-up step, and the peak of allocated memory in GiB."""
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        step()
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    peak = torch.cuda.max_memory_allocated() / 2**30 if cuda else 0.0
    return sorted(seconds[1:])[repeats // 2], peak


def _row(what: str, objects: int, seconds: float, peak: float) -> dict[str, Any]:
    return {"what": what, "objects": objects, "seconds": round(seconds, 4), "peak_gib": round(peak, 1)}


def time_unet_training(
    config: dict[str, Any], objects: int, checkpointing: bool, device: torch.device, repeats: int, precision: torch.dtype
) -> dict[str, Any]:
    """One optimiser step (forward, backward, clip, AdamW) on random latents, float32 weights under autocast.

    Args:
        config: of the UNet.
        objects: in the batch, six views each.
        checkpointing: recompute activations to save memory.
        device: to run on.
        repeats: measured steps.
        precision: autocast type.
    """
    torch.manual_seed(0)
    e = config["projection_class_embeddings_input_dim"] // 2
    with device:
        unet = with_view_conditioning(build_unet(config), "rays").train()
        normalizer = StableUnCLIPImageNormalizer(embedding_dim=e)
    if checkpointing:
        unet.enable_gradient_checkpointing()
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-5, fused=True)
    scheduler = DDPMScheduler(beta_schedule="scaled_linear", prediction_type="v_prediction")
    objective = Objective(scheduler, normalizer, DDPMScheduler(beta_schedule="squaredcos_cap_v2"), 0.18215)
    generator = torch.Generator(device).manual_seed(0)
    randn = lambda *shape: torch.randn(*shape, generator=generator, device=device)  # noqa: E731
    c, side, views = unet.config.out_channels, unet.config.sample_size, unet.config.num_views
    prompts = randn(views, TOKENS, unet.config.cross_attention_dim)

    def step() -> None:
        batch = Batch(
            randn(objects * views, 2 * c, side, side), randn(objects, c, side, side), randn(objects, e), prompts,
            randn(objects * views, POSE_FEATURES), randn(objects * views, RAY_CHANNELS, side, side),
        )  # fmt: skip
        draws = draw(objects, views, (c, side, side), e, scheduler.config.num_train_timesteps, generator)
        with torch.autocast(device.type, precision):
            result = objective.loss(unet, batch, draws)
        result.loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    name = f"multi-view training step{', gradient checkpointing' if checkpointing else ''}"
    return _row(name, objects, *_median_step(step, repeats))


def time_sampling(objects: int, steps: int, device: torch.device, repeats: int, precision: torch.dtype) -> dict[str, Any]:
    """Sample six views of some objects with guidance, image encoder and autoencoder included.

    Args:
        objects: sampled at once.
        steps: denoising steps.
        device: to run on.
        repeats: measured calls.
        precision: autocast type.
    """
    torch.manual_seed(0)
    with device:
        pipeline = MultiViewPipeline(
            unet=with_view_conditioning(build_unet(PUBLISHED_UNET), "rays").eval(),
            vae=AutoencoderKL(
                block_out_channels=[128, 256, 512, 512], down_block_types=["DownEncoderBlock2D"] * 4,
                up_block_types=["UpDecoderBlock2D"] * 4, layers_per_block=2, latent_channels=4, sample_size=PIXELS,
            ).eval(),
            image_encoder=CLIPVisionModelWithProjection(
                CLIPVisionConfig(
                    hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=16, image_size=224,
                    patch_size=14, projection_dim=EMBEDDING, hidden_act="gelu",
                )
            ).eval(),
            feature_extractor=CLIPImageProcessorPil(),
            image_normalizer=StableUnCLIPImageNormalizer(embedding_dim=EMBEDDING),
            image_noising_scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
            scheduler=DDIMScheduler(beta_schedule="scaled_linear", prediction_type="v_prediction"),
        )  # fmt: skip
        pictures = torch.rand(objects * VIEWS, 3, PIXELS, PIXELS)
        prompts = torch.randn(VIEWS, TOKENS, PUBLISHED_UNET["cross_attention_dim"])
        poses = torch.randn(objects * VIEWS, POSE_FEATURES)
        rays = torch.randn(objects * VIEWS, RAY_CHANNELS, PIXELS // 8, PIXELS // 8)
    pipeline.set_progress_bar_config(disable=True)

    def call() -> None:
        with torch.autocast(device.type, precision):
            pipeline(pictures, prompts, poses, rays, num_inference_steps=steps, guidance_scale=3.0)

    return _row(f"six views, {steps} steps, guidance", objects, *_median_step(call, repeats))


def time_gslrm_training(
    config: GslrmConfig, objects: int, device: torch.device, repeats: int, precision: torch.dtype
) -> dict[str, Any]:
    """One GS-LRM optimiser step on random pictures: six input views, the same six views rendered and compared.

    Args:
        config: of the network.
        objects: in the batch.
        device: to run on.
        repeats: measured steps.
        precision: autocast type.
    """
    torch.manual_seed(0)
    size = config.image_size
    with device:
        model = Gslrm(config).train()
        pictures = torch.rand(objects, VIEWS, 3, size, size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    c2w, intrinsics = (t.to(device).expand(objects, *t.shape) for t in camera_tensors(load_rig("ring60", size).cameras))

    def step() -> None:
        with torch.autocast(device.type, precision):
            output = model(pictures, c2w, intrinsics)
        rendered = render_objects(output.gaussians, c2w, intrinsics, size, size)
        gslrm_loss(GslrmLosses(), rendered, Targets(pictures)).total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return _row("GS-LRM training step, 6 views rendered", objects, *_median_step(step, repeats))


def measure_speed(device: torch.device, repeats: int) -> list[dict[str, Any]]:
    """All rows for the published sizes in bf16; what does not fit the memory is a row that says so."""
    bf16 = torch.bfloat16
    work: list[tuple[str, int, Callable[[], dict[str, Any]]]] = [
        (f"multi-view training step{', gradient checkpointing' * saving}", n,
         partial(time_unet_training, PUBLISHED_UNET, n, saving, device, repeats, bf16))
        for n, saving in ((1, False), (4, False), (4, True), (8, True))
    ]  # fmt: skip
    work += [("six views, 50 steps, guidance", n, partial(time_sampling, n, 50, device, 1, bf16)) for n in (1, 4)]
    work += [("GS-LRM training step", n, partial(time_gslrm_training, GslrmConfig(), n, device, repeats, bf16)) for n in (1, 2)]
    rows = []
    for what, objects, run in work:
        try:
            rows.append(run())
        except torch.OutOfMemoryError:
            rows.append({"what": what, "objects": objects, "seconds": None, "peak_gib": None})
        say(f"{rows[-1]}")
        gc.collect()
        torch.cuda.empty_cache()
    return rows
