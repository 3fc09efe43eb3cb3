"""One forward pass of multi-view diffusion training, as a function of explicit draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from diffusers import DDPMScheduler
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer
from jaxtyping import Float, Int
from torch import Tensor

from mvfl.mvdiffusion.conditioning import drop_masks, image_class_labels, snr_weights


class Draws(NamedTuple):
    """Everything random in one pass; N = objects x views, view fastest.

    Attributes:
        label_noise: unCLIP noise [N, e].
        drop: one uniform per object.
        latent_noise: sampling noise of the target latents [N, c, h, w].
        diffusion_noise: [N, c, h, w].
        timesteps: one per object.
    """

    label_noise: Float[Tensor, "n e"]
    drop: Float[Tensor, " object"]
    latent_noise: Float[Tensor, "n c h w"]
    diffusion_noise: Float[Tensor, "n c h w"]
    timesteps: Int[Tensor, " object"]


class Batch(NamedTuple):
    """One batch in slot order.

    Attributes:
        target_moments: mean and log-variance of the VAE posterior per slot, unscaled [N, 2c, h, w].
        reference_latents: scaled latents of each object's reference [object, c, h, w].
        embeds: CLIP embedding of each object's reference [object, e].
        prompts: text embedding per object and slot [N, token, width], or per slot, shared by all objects [view, token, width].
        poses: relative poses [N, feature], or None.
        rays: Pluecker rays [N, 6, h, w], or None.
    """

    target_moments: Float[Tensor, "n moment h w"]
    reference_latents: Float[Tensor, "object c h w"]
    embeds: Float[Tensor, "object e"]
    prompts: Float[Tensor, "slot token channel"]
    poses: Float[Tensor, "n feature"] | None
    rays: Float[Tensor, "n 6 h w"] | None = None


class Loss(NamedTuple):
    """Result of a pass: the weighted loss, and the model's inputs and outputs for inspection."""

    loss: Float[Tensor, ""]
    unet_input: Float[Tensor, "n two_c h w"]
    class_labels: Float[Tensor, "n labels"]
    weights: Float[Tensor, " n"]
    prediction: Float[Tensor, "n c h w"]


def draw(
    objects: int, views: int, latent_shape: tuple[int, ...], embedding: int, train_timesteps: int, g: torch.Generator
) -> Draws:
    """All draws of one pass from one generator, on the generator's device."""
    n, device = objects * views, g.device
    randn = lambda *shape: torch.randn(*shape, generator=g, device=device)  # noqa: E731
    return Draws(
        label_noise=randn(n, embedding),
        drop=torch.rand(objects, generator=g, device=device),
        latent_noise=randn(n, *latent_shape),
        diffusion_noise=randn(n, *latent_shape),
        timesteps=torch.randint(train_timesteps, (objects,), generator=g, device=device),
    )


def target_latents(
    moments: Float[Tensor, "n moment h w"], noise: Float[Tensor, "n c h w"], scaling_factor: float
) -> Float[Tensor, "n c h w"]:
    """Sample the VAE posterior: (mean + std * noise) * scaling factor."""
    mean, log_variance = moments.chunk(2, dim=1)
    return (mean + torch.exp(0.5 * log_variance.clamp(-30, 20)) * noise) * scaling_factor


@dataclass(frozen=True)
class Objective:
    """What a pass is measured against: the noise schedules and how errors are weighted.

    Attributes:
        scheduler: of the latents' noise.
        normalizer, noising: of the image embeddings (unCLIP).
        scaling_factor: of the VAE's latents.
        drop_rate: r; labels are dropped below 2r, reference latents in r..3r.
        weighting, gamma: of `snr_weights`.
    """

    scheduler: DDPMScheduler
    normalizer: StableUnCLIPImageNormalizer
    noising: DDPMScheduler
    scaling_factor: float
    drop_rate: float = 0.05
    weighting: Literal["published", "v_prediction", "none"] = "published"
    gamma: float = 5.0

    @property
    def timesteps(self) -> int:
        """Number of noise levels."""
        return self.scheduler.config.num_train_timesteps

    def loss(self, unet: Callable[..., Any], batch: Batch, draws: Draws) -> Loss:
        """Mean over views of (mean squared error of v) x (SNR weight); the reference is one of its own targets.

        Conditions are dropped per object by multiplication with 0: the whole class label (never the relative pose or the rays) and
        the reference latents. The target follows the scheduler's prediction type.
        """
        views = len(batch.target_moments) // len(batch.embeds)
        per_view = lambda t: t.repeat_interleave(views, 0)  # noqa: E731
        keep_labels, keep_latents = (m.to(batch.embeds.dtype) for m in drop_masks(draws.drop, self.drop_rate))
        labels = image_class_labels(per_view(batch.embeds), draws.label_noise, 0, self.normalizer, self.noising)
        labels = labels * per_view(keep_labels)[:, None]
        if batch.poses is not None:
            labels = torch.cat([labels, batch.poses], dim=1)
        references = per_view(batch.reference_latents * keep_latents[:, None, None, None])
        x0 = target_latents(batch.target_moments, draws.latent_noise, self.scaling_factor)
        timesteps = per_view(draws.timesteps)
        told = [references] if batch.rays is None else [references, batch.rays]
        x = torch.cat([self.scheduler.add_noise(x0, draws.diffusion_noise, timesteps), *told], dim=1)
        prompts = batch.prompts.repeat(len(x) // len(batch.prompts), 1, 1)
        prediction = unet(x, timesteps, encoder_hidden_states=prompts, class_labels=labels).sample
        weights = snr_weights(self.scheduler.alphas_cumprod, timesteps, self.weighting, self.gamma)
        error = (prediction.float() - self._target(x0, draws.diffusion_noise, timesteps)).square().mean((1, 2, 3))
        return Loss((error * weights).mean(), x, labels, weights, prediction)

    def _target(self, x0: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the model should say, by the scheduler's prediction type."""
        if self.scheduler.config.prediction_type == "v_prediction":
            return self.scheduler.get_velocity(x0, noise, timesteps)
        if self.scheduler.config.prediction_type == "epsilon":
            return noise
        raise ValueError(f"Prediction type '{self.scheduler.config.prediction_type}' cannot be trained here.")
