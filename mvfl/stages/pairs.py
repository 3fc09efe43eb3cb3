"""Which views are generated, what their samples are called, and what decides their pictures. Loads no torch."""

from __future__ import annotations

from mvfl.config.experiment import Generation
from mvfl.layout import Checkpoint
from mvfl.records.base import BaseRecord
from mvfl.records.manifest import Manifest, evenly
from mvfl.runtime.files import InputError, sha256
from mvfl.runtime.fingerprint import Fingerprint, code_digest
from mvfl.stages.jobs import GenerationInputs

Pair = tuple[str, int]  # sample, reference view
WORTH_COMPILING = 500  # objects from which `compile: auto` compiles; it takes a minute or two


def synthetic_name(sample: str, reference: int) -> str:
    """Name of the generated sample for one reference view."""
    return f"{sample}_ref{reference}"


def source_of(name: str) -> Pair:
    """Recorded sample and reference view of a generated sample.

    Raises:
        InputError: not a name of a generated sample.
    """
    sample, _, reference = name.rpartition("_ref")
    if not sample or not reference.isdecimal():
        raise InputError(f"{name} is not the name of a generated sample; run the `synthetic` target again.")
    return sample, int(reference)


def planned_pairs(manifest: Manifest, generation: Generation) -> dict[str, list[Pair]]:
    """(sample, reference) pairs per split; all outputs of a frame stay on the frame's side of the split."""
    s = generation.synthetic
    first = 0 if generation.reference == "random" else generation.reference
    views = list(range(manifest.views))
    chosen = {"first": lambda i: [first], "in_turn": lambda i: [i % len(views)], "all": lambda i: views}[s.references]
    cut = {"train": evenly(manifest.train, s.train), "val": evenly(manifest.val, s.val), "test": evenly(manifest.test, s.test)}
    return {split: [(n, r) for i, n in enumerate(names) for r in chosen(i)] for split, names in cut.items()}


def planned_batches(manifest: Manifest, generation: Generation) -> list[list[Pair]]:
    """All pairs, training split first, in batches of `sampling.batch_size`."""
    plan = planned_pairs(manifest, generation)
    pairs, size = [*plan["train"], *plan["val"], *plan["test"]], generation.sampling.batch_size
    return [pairs[i : i + size] for i in range(0, len(pairs), size)]


def fingerprint(inputs: GenerationInputs, manifest: Manifest) -> Fingerprint:
    """Everything that decides the pictures."""
    settings = inputs.generation.decisive()
    del settings["synthetic"]  # which samples are made decides none of them
    hashes = {
        "weights": sha256(Checkpoint(inputs.checkpoint).weights), "base": BaseRecord.read(inputs.base).hash,
        "prompts": sha256(inputs.prompts), "data": manifest.data_hash, "input view": "as recorded",
    }  # fmt: skip
    return Fingerprint(settings, hashes, code_digest("mvfl.mvdiffusion.sampling"))
