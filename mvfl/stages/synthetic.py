"""Stages `synthetic` and `join`: generated views per sample, with the cameras of the rig that they were trained for.

The work is cut into batches that depend on the settings alone, and pieces take whole batches: the pictures are the same
however many jobs share the work and however often one of them is interrupted. Finished samples lie in a state folder
that no rule declares, so a job that comes back goes on where it stopped.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mvfl.config.agreement import refuse, view_faults
from mvfl.config.experiment import Generation
from mvfl.data.pictures import composite, view_pictures
from mvfl.layout import Checkpoint
from mvfl.metrics.pictures import to_pil
from mvfl.mvdiffusion.sampling import Sampler
from mvfl.records.base import BaseRecord
from mvfl.records.manifest import Manifest, evenly
from mvfl.records.pieces import Piece, PieceList
from mvfl.records.samples import write_sample
from mvfl.runtime.devices import compiles
from mvfl.runtime.endings import TimeSpent, Unfinished
from mvfl.runtime.files import InputError, sha256, sweep_partials, write_json, written_aside
from mvfl.runtime.fingerprint import Fingerprint, code_digest
from mvfl.runtime.forcing import announce
from mvfl.runtime.lock import only_writer
from mvfl.runtime.progress import say, tracked
from mvfl.runtime.provenance import write_provenance
from mvfl.runtime.training_state import MARK, StopRequest
from mvfl.stages.jobs import GenerationInputs, JoinJob, SyntheticJob

Pair = tuple[str, int]  # sample, reference view
WORTH_COMPILING = 500  # objects; compiling takes a minute or two


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
    references = list(range(manifest.views)) if s.references == "all" else [first]
    cut = {"train": evenly(manifest.train, s.train), "val": evenly(manifest.val, s.val)}
    return {split: [(n, r) for n in names for r in references] for split, names in cut.items()}


def planned_batches(manifest: Manifest, generation: Generation) -> list[list[Pair]]:
    """All pairs, training split first, in batches of `sampling.batch_size`."""
    plan = planned_pairs(manifest, generation)
    pairs, size = [*plan["train"], *plan["val"]], generation.sampling.batch_size
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
    number = {name: i for i, name in enumerate([*manifest.train, *manifest.val])}
    for done, batch in enumerate(tracked(missing, "synthetic", len(missing))):
        if stop:
            ending = TimeSpent if stop.time_spent else Unfinished
            raise ending(f"Stopped after {done} of {len(missing)} batches ({stop.reason}); run again to go on.")
        found = [manifest.sample(n) for n, _ in batch]
        pictures = torch.stack([composite(view_pictures(manifest, s, [r]), 1.0)[0] for s, (_, r) in zip(found, batch, strict=True)])
        seeds = [(sampler.sampling.seed, number[n], r) for n, r in batch]
        images = sampler.sample(pictures, [s.cameras for s in found], [r for _, r in batch], seeds)
        if float((images < 0.9).float().mean()) < 1e-3:
            raise InputError(f"The views sampled with {inputs.checkpoint} are blank; judge the checkpoint again (`evaluate`).")
        for pair, picture, views in zip(batch, pictures, images, strict=True):
            _write(samples / synthetic_name(*pair), pair, picture, views, manifest, sampler, inputs.checkpoint)


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


def join(job: JoinJob) -> Manifest:
    """Make the data set of all pieces: every planned sample once, each file as its piece recorded it.

    Raises:
        InputError: a sample is missing, there twice, or changed since it was made.
    """
    inputs, manifest = job.source, Manifest.read(job.source.manifest)
    mark = fingerprint(inputs, manifest).value
    plan = {split: [synthetic_name(*p) for p in pairs] for split, pairs in planned_pairs(manifest, inputs.generation).items()}
    wanted, listed = [*plan["train"], *plan["val"]], _listed(job.pieces, mark)
    if set(wanted) != set(listed):
        raise InputError(f"The pieces in {job.pieces[0].parent} hold {len(listed)} of {len(wanted)} samples; generate them again.")
    with written_aside(job.out / "samples") as folder:
        for name in wanted:
            _copy_sample(inputs.state / mark / name, folder / name, listed[name])
    origin: dict[str, Path | str] = {
        "checkpoint": Checkpoint(inputs.checkpoint).provenance, "manifest": inputs.manifest, "base": inputs.base,
        "prompts": inputs.prompts,
    }  # fmt: skip
    write_provenance(job.out, "synthetic", inputs.generation.model_dump(mode="json"), origin, manifest.rig.hash)
    return Manifest.write(
        job.out / "manifest.json", f"{manifest.name}_synthetic", job.out / "samples", manifest.rig, manifest.image_size,
        plan["train"], plan["val"],
    )  # fmt: skip


def _listed(pieces: list[Path], mark: str) -> dict[str, dict[str, str]]:
    """Samples of all pieces with the hashes of their files."""
    listed: dict[str, dict[str, str]] = {}
    for file in pieces:
        entry = PieceList.read(file)
        if entry.mark != mark:
            raise InputError(
                f"{file} belongs to other settings or another checkpoint; run again with --forcerun generate_synthetic."
            )
        if twice := listed.keys() & entry.samples.keys():
            raise InputError(
                f"{file} lists {sorted(twice)[0]}, which another piece has; run again with --forcerun generate_synthetic."
            )
        listed |= entry.samples
    return listed


def _copy_sample(source_folder: Path, target_folder: Path, hashes: dict[str, str]) -> None:
    """The files of one sample, as they were when they were made; linked where the file system can."""
    for relative, recorded in hashes.items():
        source, target = source_folder / relative, target_folder / relative
        if not source.is_file() or sha256(source) != recorded:
            shutil.rmtree(source_folder, ignore_errors=True)  # or the next run would find it done
            raise InputError(
                f"{source} is missing or changed since it was made, so the sample was removed; run again with "
                "--forcerun generate_synthetic, which makes it anew and keeps all others."
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target)  # the same bytes, no second copy
        except OSError:
            shutil.copyfile(source, target)
