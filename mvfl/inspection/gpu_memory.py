"""GPU memory: what the stages need with the published sizes at 512 px, as measured (docs/performance.md), and what cards have."""

from __future__ import annotations

import re

from mvfl.config.bases import HubBase, LocalBase
from mvfl.config.experiment import Training
from mvfl.config.gslrm import GslrmFinetuning
from mvfl.config.workflow import WorkflowConfig

# GiB of the cards that clusters have, by the words of their names in SLURM; the smallest, where one comes in several sizes.
CARDS = {
    "k80": 12, "p100": 12, "v100": 16, "t4": 16, "2080": 11, "3090": 24, "4090": 24, "5090": 32, "a10": 24, "a16": 16, "a30": 24,
    "a40": 48, "a5000": 24, "a6000": 48, "l4": 24, "l40": 48, "l40s": 48, "a100": 40, "h100": 80,
    "h200": 141, "gh200": 96, "b200": 180,
}  # fmt: skip


SMALLER = "lower batch_size (in trainings also gradient_checkpointing: true), or use another card or partition"


LOOK = 19.7  # weights, average and optimiser, CLIP and autoencoder, and one object that is drawn and decoded picture by picture
GRADIENTS = 3.3  # float32; they lie there beside the activations of every micro-batch but a step's first


def training_gib(t: Training) -> float:
    """Peak of multi-view training: of a step, in which weights, average and optimiser are 14 GiB, or of a look at pictures."""
    each = 1.4 if t.gradient_checkpointing else 7.3 if t.compile is False else 4.7
    kept = GRADIENTS if t.gradient_accumulation > 1 else 0.0
    return max(LOOK, kept + (15.7 if t.gradient_checkpointing else 14.8) + each * t.batch_size)


def sampling_gib(batch_size: int) -> float:
    """Peak of sampling six views with guidance, not compiled, on a card that computes in bf16."""
    return 4.2 + 3.0 * batch_size


def gslrm_gib(s: GslrmFinetuning) -> float:
    """Peak of GS-LRM's fine-tuning, rendering included."""
    return 4.4 + (2.8 if s.gradient_checkpointing else 21.5) * s.batch_size


def needs(config: WorkflowConfig) -> dict[str, float]:
    """GiB that each rule's largest job needs; small bases fit anywhere and are left out."""
    found: dict[str, float] = {}
    for e in config.experiments.values():
        if not isinstance(config.bases[e.base], HubBase | LocalBase):
            continue
        share = (config.datasets[e.dataset].image_size / 512) ** 2
        these = {
            "train_mvdiffusion": 14 + (training_gib(e.training) - 14) * share,
            "score_checkpoint": 4 + (sampling_gib(e.sampling.batch_size) - 4) * share,
            "generate_synthetic": 4 + (sampling_gib(e.sampling.batch_size) - 4) * share,
            "finetune_gslrm": 4 + (gslrm_gib(e.gslrm) - 4) * share,
        }
        found = {rule: max(gib, found.get(rule, 0.0)) for rule, gib in these.items()}
    return found


def card_gib(name: str) -> int | None:
    """GiB of a card by its name in SLURM (`gpu:a100:4`, `gpu:a100_80g:2`); None where the name tells nothing."""
    words = re.split(r"[^a-z0-9]+", name.lower())
    sizes = [int(match[1]) for word in words if (match := re.fullmatch(r"(\d{2,3})gi?b?", word))]
    known = [CARDS[word] for word in words if word in CARDS]
    return sizes[0] if sizes else known[0] if known else None
