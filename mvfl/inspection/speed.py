"""`mvfl benchmark speed`: time and memory of the published models at full size, with random weights.

Nothing is read from disk, so it answers "does it fit, and how long is a step" before any weights are in place.
"""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection

from mvfl.config.experiment import Sampling, Training, TrainingRun
from mvfl.config.gslrm import GslrmLosses
from mvfl.data.latents import LatentCache
from mvfl.geometry.cameras import camera_rows
from mvfl.geometry.rig import load_rig
from mvfl.geometry.tensors import camera_tensors
from mvfl.gslrm.losses import Targets, gslrm_loss
from mvfl.gslrm.model import Gslrm, GslrmConfig
from mvfl.gslrm.rendering import render_objects
from mvfl.mvdiffusion.batches import Recorded, TrainingData
from mvfl.mvdiffusion.conditioning import POSE_FEATURES, RAY_CHANNELS
from mvfl.mvdiffusion.pipeline import MultiViewPipeline
from mvfl.mvdiffusion.sampling import for_drawing, scheduler_of
from mvfl.mvdiffusion.slots import WORDS, slot_orders
from mvfl.mvdiffusion.training import MultiViewTraining
from mvfl.mvdiffusion.unet import build_unet, with_view_conditioning
from mvfl.runtime.fingerprint import Fingerprint
from mvfl.runtime.loop import Tail
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


SMALLER = 3.0  # of log-scales: Gaussians of random weights are some twenty times as large as trained ones, and slow to sort
WARM_UP = 3  # steps; compiling, and the caches of the first ones


def _median_step(step: Callable[[], Any], repeats: int) -> tuple[float, float, float]:
    """Median seconds of a step after the warm-up, the peak of allocated memory in GiB, and the seconds of the warm-up."""
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(repeats + WARM_UP):
        began = time.perf_counter()
        step()
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    peak = torch.cuda.max_memory_allocated() / 2**30 if cuda else 0.0
    return sorted(seconds[WARM_UP:])[repeats // 2], peak, sum(seconds[:WARM_UP])


def _row(what: str, objects: int, seconds: float, peak: float, warm_up: float) -> dict[str, Any]:
    return {
        "what": what, "objects": objects, "seconds": round(seconds, 4), "objects_per_second": round(objects / seconds, 2),
        "peak_gib": round(peak, 1), "warm_up": round(warm_up, 1),
    }  # fmt: skip


def random_pipeline(unet: dict[str, Any], device: torch.device) -> MultiViewPipeline:
    """A pipeline of the published sizes with random weights, rays told; its text encoder is left out.

    Args:
        unet: config of the UNet.
        device: where the weights are made.
    """
    torch.manual_seed(0)
    with device:
        return MultiViewPipeline(
            unet=with_view_conditioning(build_unet(unet), "rays").eval(),
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
            image_normalizer=StableUnCLIPImageNormalizer(embedding_dim=unet["projection_class_embeddings_input_dim"] // 2),
            image_noising_scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
            scheduler=DDIMScheduler(beta_schedule="scaled_linear", prediction_type="v_prediction"),
        )  # fmt: skip


def random_data(unet: UNet2DConditionModel, samples: int) -> TrainingData:
    """Latents of nothing, in the form of a cache, for a ring of six cameras."""
    rng, rig = np.random.default_rng(0), load_rig("ring60")
    side, width = unet.config.sample_size, unet.config.projection_class_embeddings_input_dim
    moments = rng.standard_normal((samples, 1, VIEWS, 2 * unet.config.out_channels, side, side), np.float32).astype(np.float16)
    embeds = rng.standard_normal((samples, 1, VIEWS, (width - POSE_FEATURES) // 2), np.float32)
    cache = LatentCache(moments, embeds, np.stack([camera_rows(rig.cameras)] * samples))
    prompts = torch.randn(WORDS, TOKENS, unet.config.cross_attention_dim)
    return TrainingData([Recorded(cache, rig, slot_orders(rig, "rays"))], prompts)


def time_training(config: dict[str, Any], device: torch.device, repeats: int, **settings: Any) -> dict[str, Any]:
    """Steps of the training stage's own loop: data, forward, backward, clip, AdamW, EMA; nothing is saved.

    Args:
        config: of the UNet.
        device: to run on.
        repeats: measured steps.
        settings: of the training.
    """
    run = TrainingRun(wandb_run="speed", training=Training(gradient_accumulation=1, **settings))
    pipeline = random_pipeline(config, device)
    pipeline.vae.to("cpu")  # latents stand for their pictures
    pipeline.image_encoder.to("cpu")
    data = random_data(pipeline.unet, 4 * run.training.batch_size)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(1) as reader:
        training = MultiViewTraining(run, pipeline, data, Path(folder), Fingerprint({}, {}, ""), 10**6, None)
        training.restore()
        tail = Tail(training.state, training.stop, 10**6, 10**6, training.snapshot, "")
        try:
            median, peak, warm_up = _median_step(lambda: training.advance(tail, reader), repeats)
        finally:
            training.stop.release()
    said = [name for name, on in (("compiled", training.compiled), ("checkpointing", run.training.gradient_checkpointing)) if on]
    return _row(f"training step{', '.join(['', *said])}", run.training.batch_size, median, peak, warm_up)


def time_sampling(objects: int, device: torch.device, repeats: int, sampling: Sampling) -> dict[str, Any]:
    """Sample six views of some objects, image encoder and autoencoder included.

    Args:
        objects: sampled at once.
        device: to run on.
        repeats: measured calls.
        sampling: solver, steps and guidance, and whether to compile.
    """
    pipeline = for_drawing(random_pipeline(PUBLISHED_UNET, device))
    if compiled := sampling.compile is True:
        pipeline.unet.compile()
        pipeline.vae.decoder.compile()
    pipeline.scheduler = scheduler_of(pipeline.scheduler, sampling.solver)
    with device:
        pictures = torch.rand(objects * VIEWS, 3, PIXELS, PIXELS)
        prompts = torch.randn(VIEWS, TOKENS, PUBLISHED_UNET["cross_attention_dim"])
        poses = torch.randn(objects * VIEWS, POSE_FEATURES)
        rays = torch.randn(objects * VIEWS, RAY_CHANNELS, PIXELS // 8, PIXELS // 8)
    pipeline.set_progress_bar_config(disable=True)

    def call() -> None:
        pipeline(
            pictures, prompts, poses, rays, num_inference_steps=sampling.steps, guidance_scale=sampling.guidance, eta=sampling.eta
        )

    what = f"six views, {sampling.solver}, {sampling.steps} steps, guidance{', compiled' * compiled}"
    return _row(what, objects, *_median_step(call, repeats))


def time_gslrm_training(
    config: GslrmConfig, objects: int, device: torch.device, repeats: int, precision: torch.dtype
) -> dict[str, Any]:
    """One GS-LRM optimiser step on random pictures: six input views, the same six rendered from Gaussians of trained sizes.

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
        small = [replace(g, log_scales=g.log_scales - SMALLER) for g in output.gaussians]
        rendered = render_objects(small, c2w, intrinsics, size, size)
        gslrm_loss(GslrmLosses(), rendered, Targets(pictures)).total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return _row("GS-LRM training step, 6 views rendered", objects, *_median_step(step, repeats))


def measure_speed(device: torch.device, repeats: int) -> list[dict[str, Any]]:
    """All rows for the published sizes in bf16; what does not fit the memory is a row that says so."""
    bf16, published = torch.bfloat16, Sampling(solver="ddim", steps=50)
    training = partial(time_training, PUBLISHED_UNET, device, repeats)
    work: list[tuple[str, int, Callable[[], dict[str, Any]]]] = [
        ("training step", 4, partial(training, batch_size=4, compile=False)),
        ("training step, compiled", 4, partial(training, batch_size=4)),
        ("training step, compiled", 8, partial(training, batch_size=8)),
        ("training step, checkpointing", 1, partial(training, batch_size=1, compile=False, gradient_checkpointing=True)),
        ("training step, checkpointing", 8, partial(training, batch_size=8, compile=False, gradient_checkpointing=True)),
    ]
    work += [("six views", n, partial(time_sampling, n, device, 3, Sampling())) for n in (1, 4)]
    work += [("six views, compiled", 4, partial(time_sampling, 4, device, 3, Sampling(compile=True)))]
    work += [("six views, ddim, 50 steps", 1, partial(time_sampling, 1, device, 1, published))]
    work += [("GS-LRM training step", n, partial(time_gslrm_training, GslrmConfig(), n, device, repeats, bf16)) for n in (1, 2)]
    rows = []
    for what, objects, run in work:
        try:
            rows.append(run())
        except torch.OutOfMemoryError:
            rows.append({"what": what, "objects": objects, "seconds": None, "peak_gib": None})
        say(f"{rows[-1]}")
        torch.compiler.reset()
        gc.collect()
        torch.cuda.empty_cache()
    return rows
