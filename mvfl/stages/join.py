"""Stage `join`: one data set of all pieces of the generated views. Loads no torch, so that it is quick to start."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from mvfl.layout import Checkpoint
from mvfl.records.manifest import Manifest
from mvfl.records.pieces import PieceList
from mvfl.runtime.files import InputError, sha256, written_aside
from mvfl.runtime.provenance import write_provenance
from mvfl.stages.jobs import JoinJob
from mvfl.stages.pairs import fingerprint, planned_pairs, synthetic_name


def join(job: JoinJob) -> Manifest:
    """Make the data set of all pieces: every planned sample once, each file as its piece recorded it.

    Raises:
        InputError: a sample is missing, there twice, or changed since it was made.
    """
    inputs, manifest = job.source, Manifest.read(job.source.manifest)
    mark = fingerprint(inputs, manifest).value
    plan = {split: [synthetic_name(*p) for p in pairs] for split, pairs in planned_pairs(manifest, inputs.generation).items()}
    wanted, listed = [*plan["train"], *plan["val"], *plan["test"]], _listed(job.pieces, mark)
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
    hashes = {f"{name}/{file}": value for name in wanted for file, value in listed[name].items()}
    return Manifest.write(
        job.out / "manifest.json", f"{manifest.name}_synthetic", job.out / "samples", manifest.rig, manifest.image_size,
        plan["train"], plan["val"], known=hashes, test=plan["test"],
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
