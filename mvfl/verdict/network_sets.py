"""Labelled prediction sets that a network drew, for `mvfl benchmark decision`.

Constructed sets are sharper than anything a network draws. Here the embedded base draws the animals of a world, rightly
or wrongly in a known way: A as it should; B each slot from a picture of the animal in another pose; C without training,
after a little training, without seeing the input, or told turned cameras; D with one to three slots told a wrong camera.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler
from jaxtyping import Float
from torch import Tensor

from mvfl.config.bases import EMBEDDED
from mvfl.config.prompt_styles import STYLES
from mvfl.config.strict import Coat, Pose
from mvfl.geometry.cameras import camera_rows
from mvfl.geometry.rig import Rig
from mvfl.mvdiffusion.encoding import encode_prompts
from mvfl.mvdiffusion.objective import Batch, Objective, draw
from mvfl.mvdiffusion.pipeline import MultiViewPipeline
from mvfl.mvdiffusion.slots import Told, tell
from mvfl.mvdiffusion.unet import build_unet
from mvfl.runtime.randomness import generator
from mvfl.verdict.labelled_sets import LabelledSet, Views, World, make_world

# What the embedded base was trained on: it cannot be expected to draw other animals well.
KNOWN_COATS: tuple[Coat, ...] = ("black", "agouti", "white", "brown")
KNOWN_POSES: tuple[Pose, ...] = ("stand", "walk", "crouch", "turn", "sniff")
GUIDANCE, ETA = 2.0, 1.0


def network_world(pairs: int, seed: int) -> World:
    """A world of animals that the embedded base knows, at its picture size."""
    pipeline_size = 128
    return make_world(pipeline_size, pairs, seed, coats=list(KNOWN_COATS), poses=list(KNOWN_POSES))


def load_pipeline(folder: Path = EMBEDDED) -> tuple[MultiViewPipeline, Float[Tensor, "view token channel"]]:
    """The base and its prompt embeddings."""
    pipeline = MultiViewPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline, encode_prompts(STYLES["mouse_elevated"].prompts, pipeline.tokenizer, pipeline.text_encoder).float()


def sampled(
    pipeline: MultiViewPipeline, prompts: Tensor, inputs: Float[Tensor, "pair 3 height width"],
    told: Told, seed: int, steps: int,
) -> Views:  # fmt: skip
    """Sample all slots for each input; every slot is told what stands in its place."""
    slots = len(told.words)
    images = pipeline(
        inputs.repeat_interleave(slots, 0), prompts[told.words], _repeated(told.poses, len(inputs)),
        _repeated(told.rays, len(inputs)), num_inference_steps=steps,
        guidance_scale=GUIDANCE, eta=ETA, generator=[generator("cpu", seed, i) for i in range(len(inputs))],
    ).images  # fmt: skip
    return images.unflatten(0, (len(inputs), slots))


def _repeated(values: Tensor | None, objects: int) -> Tensor | None:
    return None if values is None else values.repeat(objects, *[1] * (values.ndim - 1))


def _told(pipeline: MultiViewPipeline, world: World) -> Told:
    """What the slots of the world's ring are told."""
    config, truth = pipeline.unet.config, world.truth
    rig = Rig("world", truth.cameras[0])
    return tell(config.view_conditioning, rig, [(camera_rows(truth.cameras[0]), truth.views[0])], config.sample_size)


def _turned(told: Told, turn: int) -> Told:
    """Words, poses and rays turned together: a network that heard two different stories would be right in some slots."""
    words = [told.words[(slot - turn) % len(told.words)] for slot in range(len(told.words))]
    return Told(words, *(None if v is None else v.roll(turn, 0) for v in told[1:]))


def train_from_nothing(pipeline: MultiViewPipeline, prompts: Tensor, world: World, steps: int, seed: int) -> None:
    """Replace the UNet by a random one and train it a little on the world's own pictures."""
    torch.manual_seed(seed)
    unet = build_unet(dict(pipeline.unet.config)).train()
    truth = world.truth
    told = _told(pipeline, world)
    with torch.no_grad():
        pictures = 2 * truth.images.flatten(0, 1) - 1
        moments = pipeline.vae.encode(pictures).latent_dist.parameters
        references = pipeline.encode_latents(truth.inputs)
        embeds = pipeline.encode_image(truth.inputs)
    slots = len(told.words)
    scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
    objective = Objective(
        scheduler, pipeline.image_normalizer, pipeline.image_noising_scheduler, pipeline.vae.config.scaling_factor
    )
    optimizer = torch.optim.AdamW(unet.parameters(), lr=5e-4)
    for step in range(steps):
        i = step % len(truth.inputs)
        shown = moments[i * slots : (i + 1) * slots]
        batch = Batch(shown, references[i : i + 1], embeds[i : i + 1], prompts[told.words], told.poses, told.rays)
        draws = draw(1, slots, tuple(references.shape[1:]), embeds.shape[1], 1000, generator("cpu", seed, step))
        result = objective.loss(unet, batch, draws)
        result.loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    pipeline.unet = unet.eval()


def network_sets(world: World, seed: int, steps: int = 20, training_steps: int = 40) -> Iterator[LabelledSet]:
    """All sets of a world.

    Args:
        world: of `network_world`.
        seed: of all draws.
        steps: denoising steps.
        training_steps: of the network that is partly trained.
    """
    pipeline, prompts = load_pipeline()
    truth, rng = world.truth, np.random.default_rng(seed)
    told = _told(pipeline, world)
    slots = len(told.words)
    right = sampled(pipeline, prompts, truth.inputs, told, seed, steps)
    yield LabelledSet("A", "network: drawn as trained", right)
    yield LabelledSet(
        "A", "network: drawn as trained, other noise", sampled(pipeline, prompts, truth.inputs, told, seed + 1, steps)
    )
    mixed = right.clone()
    for variant, animals in enumerate(world.alike["pose"]):
        other = sampled(pipeline, prompts, animals[:, 0], told, seed, steps)
        for slot in range(1 + variant, slots, len(world.alike["pose"])):
            mixed[:, slot] = other[:, slot]
    yield LabelledSet("B", "network: every view from another pose", mixed)
    turned = {t: sampled(pipeline, prompts, truth.inputs, _turned(told, t), seed, steps) for t in (2, 3)}
    for turn, images in turned.items():
        yield LabelledSet("C", f"network: told cameras turned by {60 * turn} degrees", images)
    for count in (1, 2, 3):
        part = right.clone()
        for slot in (1 + rng.permutation(slots - 1)[:count]).tolist():
            part[:, slot] = turned[3][:, slot]
        yield LabelledSet("D", f"network: {count} slots told the opposite camera", part)
    blind = sampled(pipeline, prompts, torch.ones_like(truth.inputs), told, seed, steps)
    yield LabelledSet("C", "network: input not seen", blind)
    for trained in (0, training_steps):
        train_from_nothing(pipeline, prompts, world, trained, seed)
        images = sampled(pipeline, prompts, truth.inputs, told, seed, steps)
        yield LabelledSet("C", f"network: {trained} training steps from nothing", images)
