"""What the frozen towers of a base make of pictures, in variants of background and tint, and of prompts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from mvfl.config.experiment import Augmentation
from mvfl.data.pictures import BACKGROUND_LEVEL, composite
from mvfl.mvdiffusion.pipeline import MultiViewPipeline

AT_ONCE = 8  # pictures; of 512 px they take 5 GiB
PLAIN = Augmentation(backgrounds=["white"], tints=1, tint_strength=0)


def tinted(rgba: Float[Tensor, "view 4 height width"], brightness: float, contrast: float) -> Float[Tensor, "view 4 height width"]:
    """Scale brightness, then contrast about the animal's mean over all views; the background is not touched."""
    rgb, alpha = rgba[:, :3] * brightness, rgba[:, 3:]
    mean = (rgb * alpha).sum((0, 2, 3), keepdim=True) / alpha.sum().clamp(min=1)
    return torch.cat([((rgb - mean) * contrast + mean).clamp(0, 1), alpha], dim=1)


def clip_pixels(
    images: Float[Tensor, "n 3 height width"], size: int, mean: Sequence[float], std: Sequence[float]
) -> Float[Tensor, "n 3 crop crop"]:
    """CLIP input as in training: antialiased bicubic resize of floats straight to the crop size, not clamped."""
    resized = F.interpolate(images, (size, size), mode="bicubic", antialias=True)
    shape = (1, 3, 1, 1)
    return (resized - torch.tensor(mean).view(shape).to(images)) / torch.tensor(std).view(shape).to(images)


def variants_of(augmentation: Augmentation, seed: int, index: int) -> list[tuple[float, float, float]]:
    """(background level, brightness, contrast) per variant of one sample; the first tint is the picture as it is."""
    out = []
    for tint in range(augmentation.tints):
        draw = np.random.default_rng([seed, index, tint]).uniform(-1, 1, 2) * augmentation.tint_strength
        brightness, contrast = (1.0, 1.0) if tint == 0 else (1 + draw[0], 1 + draw[1])
        out += [(BACKGROUND_LEVEL[b], float(brightness), float(contrast)) for b in augmentation.backgrounds]
    return out


@torch.no_grad()
def encode_pictures(
    pipeline: MultiViewPipeline, rgba: Float[Tensor, "view 4 height width"], variants: list[tuple[float, float, float]]
) -> dict[str, np.ndarray]:
    """VAE moments and CLIP embeddings of each variant of a sample.

    Args:
        pipeline: on the device to use.
        rgba: the views, straight alpha in 0..1.
        variants: of `variants_of`.

    Returns:
        `moments` [variant, view, 2 channel, h, w] and `embeds` [variant, view, width].
    """
    rgba = rgba.to(pipeline.device)
    images = torch.cat([composite(tinted(rgba, b, c), level) for level, b, c in variants])
    size, extractor = pipeline.image_encoder.config.image_size, pipeline.feature_extractor
    moments, embeds = [], []
    for some in images.split(AT_ONCE):
        moments.append(pipeline.vae.encode((2 * some - 1).to(pipeline.vae.dtype)).latent_dist.parameters)
        pixels = clip_pixels(some, size, extractor.image_mean, extractor.image_std).to(pipeline.image_encoder.dtype)
        embeds.append(pipeline.image_encoder(pixels).image_embeds)
    as_array = lambda t: t.float().cpu().numpy().reshape(len(variants), len(rgba), *t.shape[1:])  # noqa: E731
    return {"moments": as_array(torch.cat(moments)), "embeds": as_array(torch.cat(embeds))}


@torch.no_grad()
def encode_prompts(
    prompts: list[str], tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel
) -> Float[Tensor, "prompt token width"]:
    """Last hidden state after the final layer norm, padded to the tokenizer's length, no attention mask, float16."""
    tokens = tokenizer(prompts, padding="max_length", truncation=True, max_length=tokenizer.model_max_length, return_tensors="pt")
    return text_encoder(tokens.input_ids.to(text_encoder.device))[0].half().cpu()


def cosine_similarity(embeds: Float[Tensor, "prompt token width"]) -> np.ndarray:
    """Cosines between flattened embeddings [n, n]."""
    flat = torch.nn.functional.normalize(embeds.float().flatten(1), dim=1)
    return (flat @ flat.T).numpy()
