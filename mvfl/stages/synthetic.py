"""Stages `synthetic` and `join`: generated views per sample, with the cameras of the rig that they were trained for.

The work is cut into batches that depend on the settings alone, and pieces take whole batches: the pictures are the same
however many jobs share the work and however often one of them is interrupted. Finished samples lie in a state folder
that no rule declares, so a job that comes back goes on where it stopped.
"""

from __future__ import annotations

import functools
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mvfl.config.agreement import refuse, view_faults
from mvfl.data.pictures import composite, view_pictures
from mvfl.metrics.pictures import to_pil
from mvfl.mvdiffusion.sampling import Sampler
from mvfl.records.manifest import Manifest
from mvfl.records.pieces import Piece, PieceList
from mvfl.records.samples import write_sample
from mvfl.runtime.compiling import compiles
from mvfl.runtime.endings import TimeSpent, Unfinished
from mvfl.runtime.files import InputError, sha256, sweep_partials, write_json, written_aside
from mvfl.runtime.fingerprint import MARK
from mvfl.runtime.forcing import announce
from mvfl.runtime.lock import only_writer
from mvfl.runtime.progress import say, tracked
from mvfl.runtime.training_state import StopRequest
from mvfl.stages.jobs import GenerationInputs, SyntheticJob
from mvfl.stages.pairs import WORTH_COMPILING, Pair, fingerprint, planned_batches, synthetic_name


def run(job: SyntheticJob, minutes: float | None = None) -> None:
    """Sample the batches of one piece that are not there yet; then list the piece's samples with their hashes in `job.out`.

    Args:
        job: settings and paths; a pair's noise depends on its sample and reference only.
        minutes: time budget.

    Raises:
        InputError: the checkpoint was trained on another rig, or the sampled pictures are blank.
        Unfinished: stopped in good order; finished samples are kept.
    """
    inputs, piece = job.source, Piece.parse(job.piece)
    manifest = Manifest.read(inputs.manifest)
    refuse(view_faults(inputs.generation, manifest.name, manifest.views, manifest.rig.is_symmetric))
    sampler = Sampler.load(inputs.base, inputs.checkpoint, inputs.prompts, manifest.rig, inputs.generation)
    batches = planned_batches(manifest, inputs.generation)
    how = inputs.generation.sampling
    # Of all pieces together: the pictures must not depend on how many jobs share them.
    if compiles(how.compile) and (how.compile is True or len(batches) * how.batch_size >= WORTH_COMPILING):
        sampler = sampler.compile()
    known = fingerprint(inputs, manifest)
    mark, samples = known.value, inputs.state / known.value
    write_json(inputs.state / MARK, {"fingerprint": mark, "parts": known.to_json()})
    mine = batches[piece.number - 1 :: piece.count]
    with only_writer(inputs.state / f"piece-{piece.number}-of-{piece.count}"):
        announce(inputs.state)
        for pair in (p for batch in mine for p in batch):
            sweep_partials(samples, synthetic_name(*pair))
        _sample_missing(mine, samples, manifest, sampler, inputs, minutes)
    names = [synthetic_name(*pair) for batch in mine for pair in batch]
    hashes = {n: {str(f.relative_to(samples / n)): sha256(f) for f in sorted((samples / n).rglob("*.*"))} for n in names}
    PieceList(mark=mark, samples=hashes).write(job.out)


def _sample_missing(
    batches: list[list[Pair]], samples: Path, manifest: Manifest, sampler: Sampler, inputs: GenerationInputs,
    minutes: float | None,
) -> None:  # fmt: skip
    """Sample the batches of which a sample is missing."""
    stop = StopRequest(minutes)
    missing = [b for b in batches if not all((samples / synthetic_name(*pair)).is_dir() for pair in b)]
    if len(missing) < len(batches):
        say(f"{len(batches) - len(missing)} of {len(batches)} batches are there already.")
    number = {name: i for i, name in enumerate(manifest.names)}
    write = functools.partial(_write, manifest=manifest, sampler=sampler, checkpoint=inputs.checkpoint)
    writing: list[Future[None]] = []
    # Pictures are written while the next ones are drawn; leaving the block waits for the last.
    with ThreadPoolExecutor(sampler.sampling.batch_size) as writers:
        for done, batch in enumerate(tracked(missing, "synthetic", len(missing))):
            if stop:
                ending = TimeSpent if stop.time_spent else Unfinished
                raise ending(f"Stopped after {done} of {len(missing)} batches ({stop.reason}); run again to go on.")
            found = [manifest.sample(n) for n, _ in batch]
            given = [composite(view_pictures(manifest, s, [r]), 1.0)[0] for s, (_, r) in zip(found, batch, strict=True)]
            pictures, seeds = torch.stack(given), [(sampler.sampling.seed, number[n], r) for n, r in batch]
            images = sampler.sample(pictures, [s.cameras for s in found], [r for _, r in batch], seeds)
            if float((images < 0.9).float().mean()) < 1e-3:
                raise InputError(f"The views sampled with {inputs.checkpoint} are blank; judge the checkpoint again (`evaluate`).")
            for written in writing:
                written.result()
            folders = [samples / synthetic_name(*pair) for pair in batch]
            writing = [writers.submit(write, *item) for item in zip(folders, batch, pictures, images, strict=True)]
        for written in writing:
            written.result()


def _write(
    folder: Path, pair: Pair, picture: Float[Tensor, "3 height width"], images: Float[Tensor, "slot 3 height width"],
    manifest: Manifest, sampler: Sampler, checkpoint: Path,
) -> None:  # fmt: skip
    """One sample folder, whole or not at all; view index means the same camera as in the data, the input keeps its own picture."""
    name, reference = pair
    slots = sampler.slot_views(reference)
    size = manifest.image_size
    cameras = [c.resized(size, size) for c in manifest.sample(name).cameras[: manifest.views]]
    with written_aside(folder) as target:
        pictures = [to_pil(picture if view == reference else images[slots.index(view)]) for view in range(manifest.views)]
        write_sample(target, cameras, pictures, folder.name)
        metadata: dict[str, Any] = {
            "source_sample": name, "reference_view": reference, "rig_hash": manifest.rig.hash,
            "checkpoint": str(checkpoint), "sampling": sampler.sampling.model_dump(mode="json"),
        }  # fmt: skip
        write_json(target / "metadata.json", metadata)
