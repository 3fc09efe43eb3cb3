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
from mvfl.mvdiffusion.conditioning import pose_features
from mvfl.mvdiffusion.encoding import encode_prompts
from mvfl.mvdiffusion.objective import Batch, Objective, draw
from mvfl.mvdiffusion.pipeline import MultiViewPipeline
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
    poses: Float[Tensor, "slot feature"], seed: int, steps: int,
) -> Views:  # fmt: skip
    """Sample all slots for each input; every slot is told the pose in its row."""
    slots = len(poses)
    images = pipeline(
        inputs.repeat_interleave(slots, 0), prompts, poses.repeat(len(inputs), 1), num_inference_steps=steps,
        guidance_scale=GUIDANCE, eta=ETA, generator=[generator("cpu", seed, i) for i in range(len(inputs))],
    ).images  # fmt: skip
    return images.unflatten(0, (len(inputs), slots))


def train_from_nothing(pipeline: MultiViewPipeline, prompts: Tensor, world: World, steps: int, seed: int) -> None:
    """Replace the UNet by a random one and train it a little on the world's own pictures."""
    torch.manual_seed(seed)
    unet = build_unet(dict(pipeline.unet.config)).train()
    truth = world.truth
    poses = pose_features([c.spherical for c in truth.cameras[0]], truth.views[0])
    with torch.no_grad():
        pictures = 2 * truth.images.flatten(0, 1) - 1
        moments = pipeline.vae.encode(pictures).latent_dist.parameters
        references = pipeline.encode_latents(truth.inputs)
        embeds = pipeline.encode_image(truth.inputs)
    slots = len(poses)
    scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
    objective = Objective(
        scheduler, pipeline.image_normalizer, pipeline.image_noising_scheduler, pipeline.vae.config.scaling_factor
    )
    optimizer = torch.optim.AdamW(unet.parameters(), lr=5e-4)
    for step in range(steps):
        i = step % len(truth.inputs)
        batch = Batch(moments[i * slots : (i + 1) * slots], references[i : i + 1], embeds[i : i + 1], prompts, poses)
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
    poses = pose_features([c.spherical for c in truth.cameras[0]], truth.views[0])
    slots = len(poses)
    right = sampled(pipeline, prompts, truth.inputs, poses, seed, steps)
    yield LabelledSet("A", "network: drawn as trained", right)
    yield LabelledSet(
        "A", "network: drawn as trained, other noise", sampled(pipeline, prompts, truth.inputs, poses, seed + 1, steps)
    )
    mixed = right.clone()
    for variant, animals in enumerate(world.alike["pose"]):
        other = sampled(pipeline, prompts, animals[:, 0], poses, seed, steps)
        for slot in range(1 + variant, slots, len(world.alike["pose"])):
            mixed[:, slot] = other[:, slot]
    yield LabelledSet("B", "network: every view from another pose", mixed)
    # Words and poses are turned together: a network that heard two different stories would be right in some slots.
    turned = {t: sampled(pipeline, prompts.roll(t, 0), truth.inputs, poses.roll(t, 0), seed, steps) for t in (2, 3)}
    for turn, images in turned.items():
        yield LabelledSet("C", f"network: told cameras turned by {60 * turn} degrees", images)
    for count in (1, 2, 3):
        part = right.clone()
        for slot in (1 + rng.permutation(slots - 1)[:count]).tolist():
            part[:, slot] = turned[3][:, slot]
        yield LabelledSet("D", f"network: {count} slots told the opposite camera", part)
    blind = sampled(pipeline, prompts, torch.ones_like(truth.inputs), poses, seed, steps)
    yield LabelledSet("C", "network: input not seen", blind)
    for trained in (0, training_steps):
        train_from_nothing(pipeline, prompts, world, trained, seed)
        images = sampled(pipeline, prompts, truth.inputs, poses, seed, steps)
        yield LabelledSet("C", f"network: {trained} training steps from nothing", images)
