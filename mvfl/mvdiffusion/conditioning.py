"""What a slot is told: the reference picture's embedding and its camera relative to the reference."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
import torch
from diffusers import DDPMScheduler
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mvfl.config.strict import ViewConditioning
from mvfl.geometry.rig import Rig

AZIMUTH_HARMONICS = 4
POSE_FEATURES = 2 * AZIMUTH_HARMONICS + 3


def image_class_labels(
    embeds: Float[Tensor, "n e"],
    noise: Float[Tensor, "n e"],
    level: int,
    normalizer: StableUnCLIPImageNormalizer,
    noising: DDPMScheduler,
) -> Float[Tensor, "n labels"]:
    """Noise image embeddings as unCLIP does and append the noise level's sinusoid.

    z = (e - mean)/std; z <- sqrt(a_n) z + sqrt(1 - a_n) eps; back to embedding units; then a sinusoid of width E,
    cosines first. Level 0 is not free of noise, since a_0 < 1.

    Args:
        embeds: CLIP image embeddings.
        noise: N(0, 1), one row per view.
        level: noise level n; 0 in training and inference.
    """
    levels = torch.full((len(embeds),), level, device=embeds.device, dtype=torch.long)
    noised = normalizer.unscale(noising.add_noise(normalizer.scale(embeds), noise, levels))
    sinusoid = get_timestep_embedding(levels, embeds.shape[1], flip_sin_to_cos=True, downscale_freq_shift=0)
    return torch.cat([noised, sinusoid.to(noised.dtype)], dim=1)


def pose_features(places: Sequence[Sequence[float]], order: Sequence[int]) -> Float[Tensor, "slot feature"]:
    """Camera of each slot relative to the input's.

    Cosine and sine of 1..4 times the azimuth difference, the elevations of slot and input in radians, and the
    logarithm of the distance ratio. Real animals walk, so a picture belongs to the camera that took it: places are those of the
    sample, seen from the animal, never a rig's mean.

    Args:
        places: azimuth and elevation in degrees and distance of each view's camera (`Camera.spherical`).
        order: view index per slot, the input's first.
    """
    return _pose_features(tuple(tuple(float(v) for v in p) for p in places), tuple(order)).clone()


@functools.lru_cache(maxsize=65536)  # a ring that all samples share is computed once
def _pose_features(places: tuple[tuple[float, ...], ...], order: tuple[int, ...]) -> Tensor:
    azimuth0, elevation0, distance0 = places[order[0]]
    rows = []
    for view in order:
        azimuth, elevation, distance = places[view]
        delta = math.radians(azimuth - azimuth0)
        waves = [f(k * delta) for k in range(1, AZIMUTH_HARMONICS + 1) for f in (math.cos, math.sin)]
        rows.append([*waves, math.radians(elevation), math.radians(elevation0), math.log(distance / distance0)])
    return torch.tensor(rows)


def slot_views(rig: Rig, reference: int, mode: ViewConditioning) -> list[int]:
    """View index of each slot.

    Relative modes and the published fixed reference put the reference into slot 0 and go round the rig;
    `absolute_prompt` (the set-up that collapsed) keeps slot i on one camera whatever the reference.
    """
    return rig.slot_order(0 if mode == "absolute_prompt" else reference)


def slot_orders(rig: Rig, mode: ViewConditioning) -> Int[np.ndarray, "reference slot"]:
    """View index of each slot for every possible reference."""
    return np.array([slot_views(rig, r, mode) for r in range(len(rig.cameras))])


def drop_masks(uniforms: Float[Tensor, " object"], rate: float) -> tuple[Bool[Tensor, " object"], Bool[Tensor, " object"]]:
    """Which objects keep their image embedding and which keep their reference latents.

    One uniform u per object: u < r drops the embedding only, r <= u < 2r both, 2r <= u < 3r the latents only.
    """
    return uniforms >= 2 * rate, ~((uniforms >= rate) & (uniforms < 3 * rate))


def snr_weights(
    alphas_cumprod: Float[Tensor, " t"], timesteps: Int[Tensor, " n"], weighting: str, gamma: float
) -> Float[Tensor, " n"]:
    """Loss weight per view; SNR = a/(1-a).

    `published`: min(SNR, gamma)/SNR, as released although the model predicts v. `v_prediction`:
    min(SNR, gamma)/(SNR + 1), the form of the Min-SNR paper for v. `none`: 1.
    """
    a = alphas_cumprod.to(timesteps.device)[timesteps]
    snr = a / (1 - a)
    if weighting == "none":
        return torch.ones_like(snr)
    return snr.clamp(max=gamma) / (snr if weighting == "published" else snr + 1)
