"""Stage `synthetic`: six generated views per sample, with the cameras of the rig they were trained for.

The work is cut into batches that depend on the settings alone, and pieces take whole batches: the pictures are the same
however many jobs share the work and however often one of them is interrupted. Finished samples lie in a state folder
that no rule declares, so a job that comes back goes on where it stopped.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mvfl import __version__
from mvfl.config.schema import Generation
from mvfl.data.samples import Manifest, composite, evenly, read_manifest, write_manifest
from mvfl.evaluation.pictures import to_pil
from mvfl.evaluation.scoring import draw_views
from mvfl.evaluation.stage import load_finetuned
from mvfl.mvdiffusion.conditioning import slot_views
from mvfl.mvdiffusion.training import load_prompts
from mvfl.mvdiffusion.unet import WEIGHTS
from mvfl.runtime.files import InputError, digest, read_json, sha256, sweep_partials, write_json, written_aside
from mvfl.runtime.lock import only_writer
from mvfl.runtime.progress import say, tracked
from mvfl.runtime.provenance import write_provenance
from mvfl.runtime.training_state import StopRequest, Unfinished


@dataclass(frozen=True)
class SyntheticPaths:
    """Inputs and the folder for finished samples.

    Attributes:
        manifest: real data set.
        base: `base.json`.
        checkpoint: exported checkpoint folder.
        prompts: `clr_embeds.pt`.
        state: finished samples, one folder per fingerprint of what decides them; not a declared output.
    """

    manifest: Path
    base: Path
    checkpoint: Path
    prompts: Path
    state: Path


@dataclass(frozen=True)
class Piece:
    """One job's share: piece `number` of `count`, counted from 1."""

    number: int
    count: int

    @staticmethod
    def parse(text: str) -> Piece:
        """Read `2-of-4`."""
        try:
            number, count = (int(part) for part in text.split("-of-"))
        except ValueError as error:
            raise InputError(f"--piece must look like 2-of-4; got {text}.") from error
        if not 1 <= number <= count:
            raise InputError(f"--piece {text} does not exist.")
        return Piece(number, count)


def synthetic_name(sample: str, reference: int) -> str:
    """Name of the generated sample for one reference view."""
    return f"{sample}_ref{reference}"


def source_of(name: str) -> tuple[str, int]:
    """Real sample and reference view of a generated sample."""
    sample, reference = name.rsplit("_ref", 1)
    return sample, int(reference)


def planned_pairs(manifest: Manifest, experiment: Generation) -> dict[str, list[tuple[str, int]]]:
    """(sample, reference) pairs per split; all outputs of a frame stay on the frame's side of the split.

    Raises:
        InputError: all references are asked from a model that was trained with one.
    """
    s = experiment.synthetic
    first = 0 if experiment.reference == "random" else experiment.reference
    if s.references == "all" and experiment.reference != "random":
        raise InputError("synthetic.references 'all' needs a model trained with reference 'random'.")
    references = list(range(manifest.views)) if s.references == "all" else [first]
    cut = {"train": evenly(manifest.train, s.train), "val": evenly(manifest.val, s.val)}
    return {split: [(n, r) for n in names for r in references] for split, names in cut.items()}


def planned_batches(manifest: Manifest, experiment: Generation) -> list[list[tuple[str, int]]]:
    """All pairs, training split first, in batches of `sampling.batch_size`."""
    plan = planned_pairs(manifest, experiment)
    pairs, size = [*plan["train"], *plan["val"]], experiment.sampling.batch_size
    return [pairs[i : i + size] for i in range(0, len(pairs), size)]


def fingerprint(experiment: Generation, paths: SyntheticPaths, manifest: Manifest) -> str:
    """Digest of everything that decides the pictures."""
    weights = sha256(paths.checkpoint / "unet" / WEIGHTS)
    base = read_json(paths.base, "run the prepare_base rule first")["hash"]
    return digest(
        [experiment.model_dump(exclude={"synthetic"}), weights, base, sha256(paths.prompts), manifest.data_hash, __version__]
    )


def generate_piece(experiment: Generation, paths: SyntheticPaths, piece: Piece, out: Path, minutes: float | None = None) -> None:
    """Draw the batches of one piece that are not there yet; then list the piece's samples with their hashes in `out`.

    Args:
        experiment: settings; a pair's noise depends on its sample and reference only.
        paths: inputs and state.
        piece: which share.
        out: JSON file.
        minutes: time budget.

    Raises:
        InputError: the checkpoint was trained on another rig, or the drawn pictures are blank.
        Unfinished: stopped in good order; finished samples are kept.
    """
    manifest = read_manifest(paths.manifest)
    pipeline = load_finetuned(paths.base, paths.checkpoint, manifest.rig.hash)
    prompts = load_prompts(paths.prompts, pipeline.unet)
    mark = fingerprint(experiment, paths, manifest)
    samples = paths.state / mark
    number = {name: i for i, name in enumerate([*manifest.train, *manifest.val])}
    mine = planned_batches(manifest, experiment)[piece.number - 1 :: piece.count]
    with only_writer(paths.state / f"piece-{piece.number}-of-{piece.count}"):
        stop = StopRequest(minutes)
        missing = [b for b in mine if not all((samples / synthetic_name(*pair)).is_dir() for pair in b)]
        if len(missing) < len(mine):
            say(f"{len(mine) - len(missing)} of {len(mine)} batches are there already.")
        for batch in mine:
            for pair in batch:
                sweep_partials(samples, synthetic_name(*pair))
        for done, batch in enumerate(tracked(missing, f"synthetic {piece.number}/{piece.count}", len(missing))):
            if stop:
                raise Unfinished(f"Stopped after {done} of {len(missing)} batches ({stop.reason}); run again to go on.")
            inputs = torch.stack([composite(manifest.pictures(manifest.sample(n), [r]), 1.0)[0] for n, r in batch])
            seeds = [(experiment.sampling.seed, number[n], r) for n, r in batch]
            images = draw_views(
                pipeline, inputs, [r for _, r in batch], seeds, manifest, experiment.view_conditioning, prompts,
                experiment.sampling,
            )  # fmt: skip
            if float((images < 0.9).float().mean()) < 1e-3:
                raise InputError(f"The pictures drawn from {paths.checkpoint} are blank; judge the checkpoint again (`evaluate`).")
            for pair, drawn in zip(batch, images, strict=True):
                _write_sample(samples / synthetic_name(*pair), pair, drawn, manifest, experiment, paths)
    names = [synthetic_name(*pair) for batch in mine for pair in batch]
    hashes = {n: {str(f.relative_to(samples / n)): sha256(f) for f in sorted((samples / n).rglob("*.*"))} for n in names}
    write_json(out, {"mark": mark, "samples": hashes})


def _write_sample(
    folder: Path, pair: tuple[str, int], images: Float[Tensor, "slot 3 height width"], manifest: Manifest, experiment: Generation,
    paths: SyntheticPaths,
) -> None:  # fmt: skip
    """One sample folder, whole or not at all; view index means the same camera as in the data."""
    name, reference = pair
    with written_aside(folder) as target:
        (target / "images").mkdir(parents=True)
        for slot, view in enumerate(slot_views(manifest.rig, reference, experiment.view_conditioning)):
            to_pil(images[slot]).save(target / "images" / f"cam_{view:03d}.png")
        cameras = manifest.sample(name).cameras[: manifest.views]
        frames = [c.resized(manifest.image_size, manifest.image_size).to_frame(v) for v, c in enumerate(cameras)]
        write_json(target / "opencv_cameras.json", {"id": folder.name, "frames": frames})
        metadata: dict[str, Any] = {
            "source_sample": name, "reference_view": reference, "rig_hash": manifest.rig.hash,
            "checkpoint": str(paths.checkpoint), "sampling": experiment.sampling.model_dump(mode="json"),
        }  # fmt: skip
        write_json(target / "metadata.json", metadata)


def join_pieces(experiment: Generation, paths: SyntheticPaths, pieces: Sequence[Path], out: Path) -> Manifest:
    """Make the data set of all pieces: every planned sample once, each file as its piece recorded it.

    Args:
        experiment: settings.
        paths: inputs and state.
        pieces: files of `generate_piece`.
        out: gets `samples/`, `manifest.json` and `provenance.json`.

    Raises:
        InputError: a sample is missing, there twice, or changed since it was drawn.
    """
    manifest = read_manifest(paths.manifest)
    mark = fingerprint(experiment, paths, manifest)
    plan = {split: [synthetic_name(*p) for p in pairs] for split, pairs in planned_pairs(manifest, experiment).items()}
    listed: dict[str, dict[str, str]] = {}
    for file in pieces:
        entry = read_json(file, "run the generate_synthetic rule first")
        if entry["mark"] != mark:
            raise InputError(
                f"{file} belongs to other settings or another checkpoint; run again with --forcerun generate_synthetic."
            )
        if twice := listed.keys() & entry["samples"].keys():
            raise InputError(
                f"{file} lists {sorted(twice)[0]}, which another piece has; run again with --forcerun generate_synthetic."
            )
        listed |= entry["samples"]
    wanted = [*plan["train"], *plan["val"]]
    if set(wanted) != set(listed):
        raise InputError(f"The pieces in {pieces[0].parent} hold {len(listed)} of {len(wanted)} samples; generate them again.")
    with written_aside(out / "samples") as folder:
        for name in wanted:
            for relative, recorded in listed[name].items():
                source, target = paths.state / mark / name / relative, folder / name / relative
                if not source.is_file() or sha256(source) != recorded:
                    shutil.rmtree(paths.state / mark / name, ignore_errors=True)  # or the next run would find it done
                    raise InputError(
                        f"{source} is missing or changed since it was drawn, so the sample was removed; run again with "
                        "--forcerun generate_synthetic, which draws it anew and keeps all others."
                    )
                target.parent.mkdir(parents=True, exist_ok=True)
                try:
                    os.link(source, target)  # the same bytes, no second copy
                except OSError:
                    shutil.copyfile(source, target)
    provenance: dict[str, Path | str] = {
        "checkpoint": paths.checkpoint / "provenance.json",
        "manifest": paths.manifest,
        "base": paths.base,
        "prompts": paths.prompts,
    }
    write_provenance(out, "synthetic", experiment.model_dump(mode="json"), provenance, manifest.rig.hash)
    return write_manifest(
        out / "manifest.json", f"{manifest.name}_synthetic", out / "samples", manifest.rig, manifest.image_size,
        plan["train"], plan["val"],
    )  # fmt: skip
