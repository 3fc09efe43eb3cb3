"""What a model is told, as numbers: the reference picture's embedding, cameras relative to the reference's, rays."""

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
from mvfl.geometry.cameras import camera_of_row

AZIMUTH_HARMONICS = 4
POSE_FEATURES = 2 * AZIMUTH_HARMONICS + 3
RAY_CHANNELS = 6
TELLS_POSES: tuple[ViewConditioning, ...] = ("relative_pose", "rays")


def image_class_labels(
    embeds: Float[Tensor, "n e"], noise: Float[Tensor, "n e"], level: int, normalizer: StableUnCLIPImageNormalizer,
    noising: DDPMScheduler,
) -> Float[Tensor, "n labels"]:  # fmt: skip
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


def pose_features(cameras: Float[np.ndarray, "view 16"], order: Sequence[int]) -> Float[Tensor, "slot feature"]:
    """Camera of each slot relative to the input's.

    Cosine and sine of 1..4 times the azimuth difference, the elevations of slot and input in radians, and the logarithm of how
    many times smaller the slot's camera shows the animal: ratio of distances over ratio of focal lengths. Real animals walk, so a
    picture belongs to the camera that took it: cameras are those of the sample, seen from the animal, never a rig's mean.

    Args:
        cameras: rows of `camera_rows`, one per view.
        order: view index per slot, the input's first.
    """
    return _pose_features(tuple(tuple(row) for row in np.asarray(cameras, np.float64).tolist()), tuple(order)).clone()


def pluecker_rays(cameras: Float[np.ndarray, "view 16"], order: Sequence[int], side: int) -> Float[Tensor, "slot 6 side side"]:
    """Moment o x d and direction d of the ray through the middle of each latent pixel, per slot.

    In the animal's frame: Z up, turned so that the input's camera has azimuth 0. Azimuths are the pictures' own (`heading`), so
    the frame stays defined for cameras straight above. Zoom, crop and distance are in the rays themselves.

    Args:
        cameras: rows of `camera_rows`, one per view.
        order: view index per slot; the first one is the input's.
        side: latent pixels per side.
    """
    rows = np.asarray(cameras, np.float64)[list(order)]
    turn = math.radians(-camera_of_row(rows[0]).heading)
    spin = np.array([[math.cos(turn), -math.sin(turn), 0], [math.sin(turn), math.cos(turn), 0], [0, 0, 1]])
    w2c = rows[:, :12].reshape(-1, 3, 4)
    to_frame = w2c[..., :3] @ spin.T  # row vectors of the camera's axes to the turned frame
    ox, oy, oz = -(w2c[:, None, :, 3] @ to_frame)[:, 0].T  # the camera's place in it
    across = np.stack([0 * ox, -oz, oy, oz, 0 * ox, -ox, -oy, ox, 0 * ox], -1).reshape(-1, 3, 3)  # o x d = across @ d
    middles = (np.arange(side) + 0.5) / side
    local = np.ones((len(rows), side, side, 3), np.float32)
    local[..., 0] = ((middles - rows[:, 14:15]) / rows[:, 12:13])[:, None, :]
    local[..., 1] = ((middles - rows[:, 15:16]) / rows[:, 13:14])[:, :, None]
    directions = local.reshape(len(rows), -1, 3) @ to_frame.astype(np.float32)
    directions /= np.sqrt(np.einsum("snc,snc->sn", directions, directions))[..., None]
    moments = directions @ across.transpose(0, 2, 1).astype(np.float32)
    return torch.from_numpy(np.concatenate([moments, directions], -1).transpose(0, 2, 1).reshape(len(rows), 6, side, side).copy())


@functools.lru_cache(maxsize=65536)  # a ring that all samples share is computed once
def _pose_features(cameras: tuple[tuple[float, ...], ...], order: tuple[int, ...]) -> Tensor:
    chosen = [camera_of_row(np.array(cameras[view])) for view in order]
    azimuth0, elevation0, distance0 = chosen[0].spherical
    rows = []
    for camera in chosen:
        azimuth, elevation, distance = camera.spherical
        smaller = (distance / distance0) * (chosen[0].fx / camera.fx)
        delta = math.radians(azimuth - azimuth0)
        waves = [f(k * delta) for k in range(1, AZIMUTH_HARMONICS + 1) for f in (math.cos, math.sin)]
        rows.append([*waves, math.radians(elevation), math.radians(elevation0), math.log(smaller)])
    return torch.tensor(rows)


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
