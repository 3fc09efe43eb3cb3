"""Sampling the views of animals: a pipeline, its prompts, what its slots mean, and how to denoise, as one thing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, SchedulerMixin, UniPCMultistepScheduler
from jaxtyping import Float
from torch import Tensor

from mvfl.config.experiment import Sampling, ViewSampling
from mvfl.config.strict import Solver, ViewConditioning
from mvfl.geometry.cameras import Camera, camera_rows
from mvfl.geometry.rig import Rig
from mvfl.layout import Checkpoint
from mvfl.mvdiffusion.pipeline import MultiViewPipeline
from mvfl.mvdiffusion.slots import WORDS, slot_views, tell
from mvfl.mvdiffusion.unet import load_unet, with_views
from mvfl.records.base import BaseRecord
from mvfl.records.checkpoint import require_rig
from mvfl.records.prompts import read_prompts
from mvfl.runtime.compiling import start_compilers
from mvfl.runtime.devices import device, half_precision
from mvfl.runtime.files import InputError
from mvfl.runtime.progress import tracked
from mvfl.runtime.randomness import generator


def scheduler_of(published: DDIMScheduler, solver: Solver) -> SchedulerMixin:
    """The scheduler of a solver, for the noise that a base was trained with.

    All but DDIM take trailing time steps, so that the first one is pure noise (Lin et al. 2024, "Common diffusion noise schedules
    and sample steps are flawed").

    Args:
        published: of the base.
        solver: by name.
    """
    if solver == "ddim":
        return published
    if solver == "unipc":
        return UniPCMultistepScheduler.from_config(published.config, timestep_spacing="trailing")
    kind = "sde-dpmsolver++" if solver == "sde-dpm++" else "dpmsolver++"
    return DPMSolverMultistepScheduler.from_config(published.config, algorithm_type=kind, timestep_spacing="trailing")


def for_drawing(pipeline: MultiViewPipeline) -> MultiViewPipeline:
    """A pipeline that is not trained on, moved to the device to use.

    Its networks are kept in bf16 where the card computes in it: with autocast, casting float32 weights and norms at each call took
    a sixth of the time and half of the memory (docs/performance.md). Latents and the solver's sums stay float32.

    Args:
        pipeline: changed in place; it loses its text encoder, since prompts come encoded.
    """
    pipeline.text_encoder = None
    if half_precision(device()) == torch.bfloat16:
        for network in (pipeline.unet, pipeline.vae, pipeline.image_encoder):
            network.bfloat16()
    return pipeline.to(device())


@dataclass(frozen=True)
class Sampler:
    """Samples all slots from one picture of each animal.

    Attributes:
        pipeline: on the device to use.
        prompts: one embedding per word.
        rig: names the order of the slots.
        conditioning: how slots are told their camera.
        sampling: steps, guidance, eta, batch size.
        compiled: networks are compiled for whole batches; a last one that is shorter is filled up.
    """

    pipeline: MultiViewPipeline
    prompts: Float[Tensor, "word token channel"]
    rig: Rig
    conditioning: ViewConditioning
    sampling: Sampling
    compiled: bool = False

    def compile(self) -> Sampler:
        """The same with compiled networks."""
        start_compilers()
        self.pipeline.unet.compile()
        self.pipeline.vae.decoder.compile()
        return replace(self, compiled=True)

    @staticmethod
    def load(base: Path, checkpoint: Path, prompts: Path, rig: Rig, choice: ViewSampling) -> Sampler:
        """A base's pipeline with the fine-tuned UNet of a checkpoint, on the device to use.

        Args:
            base: `base.json`.
            checkpoint: exported `checkpoint-<step>` folder.
            prompts: `clr_embeds.pt`.
            rig: of the data set.
            choice: view conditioning and sampling.

        Raises:
            InputError: a file is missing or damaged, the checkpoint was trained on another rig, or it equals the base (its
                weights did not load).
        """
        trained = Checkpoint(checkpoint)
        record = BaseRecord.read(base)
        require_rig(trained, rig.hash)
        unet = load_unet(trained.unet)
        pipeline = MultiViewPipeline.from_pretrained(record.pipeline)
        same = pipeline.unet.conv_in.weight.shape == unet.conv_in.weight.shape and all(
            torch.equal(a, b) for a, b in zip(pipeline.unet.parameters(), unet.parameters(), strict=False)
        )
        if same:
            raise InputError(f"The weights in {checkpoint} equal the base's: nothing was trained, or the wrong file was saved.")
        pipeline.unet = unet
        with_views(unet, len(rig.cameras))
        embeds = read_prompts(prompts, WORDS, unet.config.cross_attention_dim)
        return Sampler(for_drawing(pipeline), embeds, rig, choice.view_conditioning, choice.sampling)

    @property
    def side(self) -> int:
        """Latent pixels per side."""
        return self.pipeline.unet.config.sample_size

    def slot_views(self, reference: int) -> list[int]:
        """View index of each slot when view `reference` is the input."""
        return slot_views(self.rig, reference, self.conditioning)

    def sample(
        self,
        inputs: Float[Tensor, "pair 3 height width"],
        cameras: Sequence[Sequence[Camera]],
        references: Sequence[int],
        seeds: Sequence[tuple[int, ...]],
        title: str = "views",
    ) -> Float[Tensor, "pair slot 3 height width"]:
        """Sample all slots for each input picture; each pair's result depends on its own seed only.

        Args:
            inputs: reference pictures over white, RGB in 0..1.
            cameras: those that the views shall be of, per pair, in the order of the views: the sample's own.
            references: their view indices.
            seeds: integers per pair.
            title: of the progress bar.

        Returns:
            RGB in 0..1, float32 on the CPU, in slot order.
        """
        views, s = len(self.rig.cameras), self.sampling
        self.pipeline.set_progress_bar_config(disable=True)
        place = self.pipeline.device
        casting = self.pipeline.unet.dtype != half_precision(place)  # weights in training stay float32
        out = []
        starts = range(0, len(inputs), s.batch_size)
        for start in tracked(starts, title, len(starts)):
            chunk = list(range(start, min(start + s.batch_size, len(inputs))))
            wanted = len(chunk)
            chunk += chunk[-1:] * (s.batch_size - wanted) * self.compiled
            told = [(camera_rows(cameras[i]), self.slot_views(references[i])) for i in chunk]
            words, poses, rays = tell(self.conditioning, self.rig, told, self.side)
            # Numbers are drawn from CPU generators: the same noise on every device, whatever the batch.
            with self._drawing(), torch.autocast(place.type, half_precision(place), enabled=casting):
                sampled = self.pipeline(
                    inputs[chunk].repeat_interleave(views, 0), self.prompts[words], poses, rays,
                    num_inference_steps=s.steps, guidance_scale=s.guidance, eta=s.eta,
                    generator=[generator("cpu", *seeds[i]) for i in chunk],
                ).images  # fmt: skip
            out.append(sampled.float().cpu().unflatten(0, (-1, views))[:wanted])
        return torch.cat(out)

    @contextlib.contextmanager
    def _drawing(self) -> Iterator[None]:
        """The pipeline with the solver's scheduler, and with as many slots as the rig has cameras."""
        pipeline = self.pipeline
        published, trained = pipeline.scheduler, pipeline.unet.config.num_views
        pipeline.scheduler = scheduler_of(published, self.sampling.solver)
        with_views(pipeline.unet, len(self.rig.cameras))
        try:
            yield
        finally:
            pipeline.scheduler = published
            with_views(pipeline.unet, trained)
