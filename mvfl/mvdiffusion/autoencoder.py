"""Train the small autoencoder of an embedded or scratch base.

No KL term: the latents get a little noise and a penalty on their size instead, and the loss looks mostly at the
animal, which covers a tenth of the picture (both measured to matter; see configs/embedded_base.yaml).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from jaxtyping import Float, UInt8
from torch import Tensor

from mvfl.config.bases import AutoencoderTraining
from mvfl.data.pictures import composite
from mvfl.metrics.image import foreground_psnr, mask_iou
from mvfl.runtime.progress import Bar
from mvfl.runtime.randomness import generator


def _loss(prediction: Tensor, target: Tensor, mask: Tensor, s: AutoencoderTraining) -> Tensor:
    weight = 1 + (s.foreground_weight - 1) * F.max_pool2d(mask, 5, 1, 2)
    weight = weight / weight.mean()
    difference = prediction - target
    value = (weight * (difference.abs() + 4 * difference.square())).mean()
    for axis in (2, 3):
        value = (
            value + s.gradient_weight * (weight.narrow(axis, 1, weight.shape[axis] - 1) * difference.diff(dim=axis).abs()).mean()
        )
    return value


def train_autoencoder(
    vae: AutoencoderKL, pictures: UInt8[Tensor, "n 4 height width"], settings: AutoencoderTraining, seed: int, device: torch.device
) -> AutoencoderKL:
    """Train in place on RGBA pictures over white; sets the scaling factor so that latents have unit variance.

    The posterior's standard deviation becomes the constant noise level used in training.

    Raises:
        FloatingPointError: the loss is not finite.
    """
    s = settings
    vae.to(device).train()
    if device.type == "cuda":
        vae.to(memory_format=torch.channels_last)
    pictures = pictures.to(device)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=s.learning_rate, betas=(0.9, 0.95), weight_decay=1e-4, fused=True)
    warmup = max(1, s.steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: min((i + 1) / warmup, (s.steps - i) / max(1, s.steps - warmup))
    )

    def reconstruct(x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        latents = vae.encode(x).latent_dist.mean
        return vae.decode(latents + s.latent_noise * noise).sample, latents

    if s.compile:
        reconstruct = torch.compile(reconstruct)
    with Bar("autoencoder", s.steps) as bar:
        for step in range(s.steps):
            rgba, noise = _augmented(vae, pictures, s, generator(device, seed, step))
            target = 2 * composite(rgba, 1.0) - 1
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                prediction, latents = reconstruct(target, noise)
            loss = _loss(prediction.float(), target, rgba[:, 3:], s) + s.size_penalty * latents.float().square().mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            if step % 20 == 19 or step + 1 == s.steps:
                if not torch.isfinite(loss):
                    raise FloatingPointError(
                        f"The autoencoder's loss became {loss.item()} at step {step}; lower its learning rate."
                    )
                bar.update(step + 1, f"loss {loss.item():.4f}")
    return _scaled(vae.eval().to(memory_format=torch.contiguous_format), pictures, s)


def _augmented(
    vae: AutoencoderKL, pictures: Tensor, s: AutoencoderTraining, g: torch.Generator
) -> tuple[Float[Tensor, "n 4 height width"], Float[Tensor, "n c h w"]]:
    """Pictures of a step with random colours and sides, and the noise of their latents."""
    index = torch.randint(len(pictures), (s.batch_size,), generator=g, device=g.device)
    rgba = pictures[index].float() / 255
    gain = 1 + s.tint * (2 * torch.rand(s.batch_size, 3, 1, 1, generator=g, device=g.device) - 1)
    rgba[:, :3] = (rgba[:, :3] * gain).clamp(max=1)
    if torch.rand((), generator=g, device=g.device) < 0.5:
        rgba = rgba.flip(-1)
    side = rgba.shape[-1] // 2 ** (len(vae.config.block_out_channels) - 1)
    return rgba, torch.randn(s.batch_size, vae.config.latent_channels, side, side, generator=g, device=g.device)


@torch.no_grad()
def _scaled(vae: AutoencoderKL, pictures: Tensor, s: AutoencoderTraining) -> AutoencoderKL:
    """Latents of unit variance, and a posterior as wide as the noise of training."""
    means = torch.cat([vae.encode(2 * composite(p.float() / 255, 1.0) - 1).latent_dist.mean for p in pictures[:96].split(24)])
    vae.register_to_config(scaling_factor=float(1 / means.std()))
    c = vae.config.latent_channels
    vae.quant_conv.weight[c:] = 0
    vae.quant_conv.bias[c:] = 2 * torch.log(torch.tensor(s.latent_noise))
    return vae


@torch.no_grad()
def autoencoder_quality(vae: AutoencoderKL, pictures: UInt8[Tensor, "n 4 height width"], device: torch.device) -> dict[str, float]:
    """Foreground PSNR in dB and mask IoU of reconstructions over white, mean over pictures."""
    psnr: list[Float[Tensor, " n"]] = []
    iou: list[Float[Tensor, " n"]] = []
    for batch in pictures.split(48):
        rgba = batch.to(device).float() / 255
        truth = composite(rgba, 1.0)
        out = (vae.decode(vae.encode(2 * truth - 1).latent_dist.mode()).sample / 2 + 0.5).clamp(0, 1)
        psnr.append(foreground_psnr(out, truth, rgba[:, 3:]))
        iou.append(mask_iou(out, truth))
    return {"foreground_psnr": float(torch.cat(psnr).mean()), "iou": float(torch.cat(iou).mean())}
