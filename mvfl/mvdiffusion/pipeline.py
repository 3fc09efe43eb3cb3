"""`MultiViewPipeline`: one picture in, six views out. Mathematics of the published pipeline."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, DiffusionPipeline, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from transformers import CLIPImageProcessorPil, CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection
from transformers.utils.logging import disable_progress_bar

from mvfl.mvdiffusion.conditioning import image_class_labels
from mvfl.mvdiffusion.unet import load_unet
from mvfl.runtime.reading import named_errors

disable_progress_bar()  # transformers' bars for milliseconds of work would litter every log


@dataclass
class MultiViewOutput(BaseOutput):
    """Result of a call.

    Attributes:
        images: views in 0..1, float32 [objects x views, 3, height, width], view index fastest.
    """

    images: Float[Tensor, "n 3 height width"]


class MultiViewPipeline(DiffusionPipeline):
    """Samples the views of one object from a single picture.

    Components are those of the published folder: `unet`, `vae`, `image_encoder`, `text_encoder`, `tokenizer`,
    `feature_extractor`, `image_normalizer`, `image_noising_scheduler`, `scheduler`. Any diffusers scheduler works.
    """

    model_cpu_offload_seq = "text_encoder->image_encoder->unet->vae"
    _optional_components = ("text_encoder", "tokenizer")

    def __init__(
        self,
        unet: UNet2DConditionModel,
        vae: AutoencoderKL,
        image_encoder: CLIPVisionModelWithProjection,
        feature_extractor: CLIPImageProcessorPil,
        image_normalizer: StableUnCLIPImageNormalizer,
        image_noising_scheduler: DDPMScheduler,
        scheduler: Any,
        text_encoder: CLIPTextModel | None = None,
        tokenizer: CLIPTokenizer | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            unet=unet, vae=vae, image_encoder=image_encoder, feature_extractor=feature_extractor,
            image_normalizer=image_normalizer, image_noising_scheduler=image_noising_scheduler, scheduler=scheduler,
            text_encoder=text_encoder, tokenizer=tokenizer,
        )  # fmt: skip

    @classmethod
    def from_pretrained(cls, folder: str | Path, unet: UNet2DConditionModel | None = None) -> MultiViewPipeline:
        """Read every component of a published-layout folder from disk.

        Args:
            folder: holds one sub-folder per component.
            unet: a fine-tuned UNet to use instead of the folder's own.

        Raises:
            InputError: files are missing, damaged or do not fit; the message names the component.
        """
        root = Path(folder)
        unet = unet if unet is not None else load_unet(root / "unet")
        with named_errors(root, "a whole base", "copy the published folder again; `mvfl base check` names the part"):
            pipeline = cls(
                unet=unet,
                vae=AutoencoderKL.from_pretrained(root / "vae", torch_dtype=torch.float32).eval(),
                image_encoder=CLIPVisionModelWithProjection.from_pretrained(root / "image_encoder", dtype=torch.float32).eval(),
                feature_extractor=CLIPImageProcessorPil.from_pretrained(root / "feature_extractor"),
                image_normalizer=StableUnCLIPImageNormalizer.from_pretrained(root / "image_normalizer"),
                image_noising_scheduler=DDPMScheduler.from_pretrained(root / "image_noising_scheduler"),
                scheduler=DDIMScheduler.from_pretrained(root / "scheduler"),
                text_encoder=CLIPTextModel.from_pretrained(root / "text_encoder", dtype=torch.float32).eval(),
                tokenizer=CLIPTokenizer.from_pretrained(root / "tokenizer"),
            )
        for component in (pipeline.vae, pipeline.image_normalizer):
            component.register_to_config(_name_or_path="")  # where it was read from must not travel with it
        return pipeline

    @property
    def latent_factor(self) -> int:
        """How many pixels one latent spans, per side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def image_size(self) -> int:
        """Pixels per side of the pictures that the model makes."""
        return self.unet.config.sample_size * self.latent_factor

    def encode_image(self, images: Float[Tensor, "n 3 height width"]) -> Float[Tensor, "n e"]:
        """CLIP embeddings of pictures in 0..1, resized as PIL does (8 bit, bicubic, centre crop)."""
        pictures = [Image.fromarray(i) for i in (images.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()]
        pixels = self.feature_extractor(pictures, return_tensors="pt").pixel_values
        encoder = self.image_encoder
        return encoder(pixels.to(device=encoder.device, dtype=encoder.dtype)).image_embeds

    def encode_latents(self, images: Float[Tensor, "n 3 height width"]) -> Float[Tensor, "n c h w"]:
        """Reference latents: mode of the encoder's distribution of 2x - 1, times the scaling factor."""
        x = (2 * images - 1).to(device=self.vae.device, dtype=self.vae.dtype)
        return self.vae.encode(x).latent_dist.mode() * self.vae.config.scaling_factor

    def decode_latents(self, latents: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 height width"]:
        """Pictures in 0..1, float32."""
        decoded = self.vae.decode((latents / self.vae.config.scaling_factor).to(self.vae.dtype)).sample
        return (decoded.float() / 2 + 0.5).clamp(0, 1)

    @torch.no_grad()
    def __call__(
        self,
        image: Image.Image | Float[Tensor, "n 3 height width"],
        prompt_embeds: Float[Tensor, "slot token channel"],
        slot_poses: Float[Tensor, "n feature"] | None = None,
        slot_rays: Float[Tensor, "n 6 h w"] | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 3.0,
        eta: float = 1.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        noise_level: int = 0,
    ) -> MultiViewOutput:
        """Sample all views.

        The unconditional half of guidance has zero image labels and zero reference latents but the same prompts and
        the same relative poses and rays.

        Args:
            image: one RGB picture, or a batch in 0..1 [objects x views, 3, H, W] with the reference repeated per view.
            prompt_embeds: one embedding per slot, shared by all objects, or one per object and slot.
            slot_poses: relative poses per object and slot, for a UNet trained with `relative_pose` or `rays`.
            slot_rays: Pluecker rays per object and slot, for a UNet trained with `rays`.
            num_inference_steps: denoising steps.
            guidance_scale: guidance is active unless it is exactly 1.
            eta: noise of DDIM; ignored by schedulers that have none.
            generator: source of every draw, in this order: embedding noise, latents, scheduler noise. A list holds one
                generator per object, so that an object's result does not depend on its batch.
            noise_level: unCLIP noise level.
        """
        views, pictures = self.unet.config.num_views, self._batched(image)
        guided = guidance_scale != 1.0
        per_view = (
            [g for g in generator for _ in range(views)] if isinstance(generator, list) else generator
        )  # one generator serves its object's views in turn
        conditions = self._conditions(pictures, prompt_embeds, slot_poses, slot_rays, per_view, noise_level, guided)
        return MultiViewOutput(
            images=self.decode_latents(self._denoise(conditions, len(pictures), num_inference_steps, guidance_scale, eta, per_view))
        )

    def _batched(self, image: Image.Image | Float[Tensor, "n 3 height width"]) -> Float[Tensor, "n 3 height width"]:
        """Pictures per object and view, of the model's size."""
        views, side = self.unet.config.num_views, self.image_size
        if isinstance(image, Image.Image):
            pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None].float() / 255
            image = pixels.expand(views, -1, -1, -1)
        if len(image) % views:
            raise ValueError(f"{len(image)} pictures are not a multiple of {views} views.")
        if image.shape[-2:] != (side, side):
            raise ValueError(f"Pictures are {tuple(image.shape[-2:])}, the model has {side} x {side} pixels.")
        return image

    def _conditions(
        self, image: Tensor, prompt_embeds: Tensor, slot_poses: Tensor | None, slot_rays: Tensor | None, generators: Any,
        noise_level: int, guided: bool,
    ) -> _Conditions:  # fmt: skip
        """What the UNet is told; under guidance the unconditional half first."""
        views, device = self.unet.config.num_views, self.unet.device
        embeds = self.encode_image(image[::views]).repeat_interleave(views, 0).float()
        noise = _draw(embeds.shape, generators, device)
        labels = image_class_labels(
            embeds.to(device), noise, noise_level, self.image_normalizer.to(device), self.image_noising_scheduler
        )
        references = self.encode_latents(image[::views]).repeat_interleave(views, 0).to(device)
        if len(prompt_embeds) not in (views, len(image)):
            raise ValueError(f"{len(prompt_embeds)} prompt embeddings for {views} slots and {len(image) // views} objects.")
        prompts = prompt_embeds.to(device=device, dtype=self.unet.dtype).repeat(len(image) // len(prompt_embeds), 1, 1)
        if guided:
            labels = torch.cat([torch.zeros_like(labels), labels])
            references = torch.cat([torch.zeros_like(references), references])
            prompts = prompts.repeat(2, 1, 1)
        if slot_poses is not None:
            labels = torch.cat([labels, slot_poses.to(labels).repeat(2 if guided else 1, 1)], dim=1)
        if slot_rays is not None:
            references = torch.cat([references, slot_rays.to(references).repeat(2 if guided else 1, 1, 1, 1)], dim=1)
        return _Conditions(labels, references, prompts)

    def _denoise(
        self, conditions: _Conditions, count: int, steps: int, guidance: float, eta: float, generators: Any
    ) -> Float[Tensor, "n c h w"]:
        """From noise to latents of `count` views."""
        device, dtype, guided = self.unet.device, self.unet.dtype, guidance != 1.0
        labels, references, prompts = conditions
        self.scheduler.set_timesteps(steps, device=device)
        shape = (count, self.vae.config.latent_channels, *references.shape[2:])
        latents = _draw(shape, generators, device) * self.scheduler.init_noise_sigma
        accepted = inspect.signature(self.scheduler.step).parameters
        extra: dict[str, Any] = {"eta": eta} if "eta" in accepted else {}
        for t in self.progress_bar(self.scheduler.timesteps):
            x = self.scheduler.scale_model_input(torch.cat([latents, latents]) if guided else latents, t)
            x = torch.cat([x, references], dim=1).to(dtype)
            v = self.unet(x, t, encoder_hidden_states=prompts, class_labels=labels.to(dtype)).sample.float()
            if guided:
                unconditional, conditional = v.chunk(2)
                v = unconditional + guidance * (conditional - unconditional)
            if "variance_noise" in accepted and (eta > 0 or "eta" not in accepted):
                extra["variance_noise"] = _draw(shape, generators, device)
            elif "generator" in accepted and not isinstance(generators, list):
                extra["generator"] = generators
            latents = self.scheduler.step(v, t, latents, **extra).prev_sample
        return latents


class _Conditions(NamedTuple):
    labels: Float[Tensor, "n labels"]
    references: Float[Tensor, "n c h w"]
    prompts: Float[Tensor, "n token channel"]


def _draw(shape: Any, generator: Any, device: torch.device) -> Tensor:
    return randn_tensor(tuple(shape), generator=generator, device=device, dtype=torch.float32)
