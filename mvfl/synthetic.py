"""Stage `synthetic`: six generated views per sample, with the cameras of the rig they were trained for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from mvfl.config.schema import Generation
from mvfl.data.samples import Manifest, composite, read_manifest, write_manifest
from mvfl.evaluation.pictures import to_pil
from mvfl.evaluation.scoring import draw_views
from mvfl.evaluation.stage import load_finetuned
from mvfl.mvdiffusion.conditioning import slot_views
from mvfl.mvdiffusion.training import load_prompts
from mvfl.runtime.files import InputError, write_json, written_aside
from mvfl.runtime.provenance import write_provenance


@dataclass(frozen=True)
class SyntheticPaths:
    """Inputs and output.

    Attributes:
        manifest: real data set.
        base: `base.json`.
        checkpoint: exported checkpoint folder.
        prompts: `clr_embeds.pt`.
        out: gets `samples/` and `manifest.json`.
    """

    manifest: Path
    base: Path
    checkpoint: Path
    prompts: Path
    out: Path


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
    cut = {"train": manifest.train[: s.train], "val": manifest.val[: s.val]}
    return {split: [(n, r) for n in names for r in references] for split, names in cut.items()}


def generate_synthetic(experiment: Generation, paths: SyntheticPaths) -> Manifest:
    """Draw all planned pairs and write them as sample folders whose view index means the same camera as in the data.

    Args:
        experiment: settings; a pair's noise depends on its sample and reference only.
        paths: inputs and output.

    Raises:
        InputError: the checkpoint was trained on another rig, or the drawn pictures are blank.
    """
    manifest = read_manifest(paths.manifest)
    pipeline = load_finetuned(paths.base, paths.checkpoint, manifest.rig.hash)
    prompts = load_prompts(paths.prompts, pipeline.unet)
    plan = planned_pairs(manifest, experiment)
    number = {name: i for i, name in enumerate([*manifest.train, *manifest.val])}
    with written_aside(paths.out / "samples") as folder:
        folder.mkdir(parents=True)
        for split, pairs in plan.items():
            inputs = torch.stack([composite(manifest.pictures(manifest.sample(n), [r]), 1.0)[0] for n, r in pairs])
            seeds = [(experiment.sampling.seed, number[n], r) for n, r in pairs]
            images = draw_views(
                pipeline, inputs, [r for _, r in pairs], seeds, manifest, experiment.view_conditioning, prompts,
                experiment.sampling, f"synthetic {split}",
            )  # fmt: skip
            for (name, reference), drawn in zip(pairs, images, strict=True):
                sample = manifest.sample(name)
                target = folder / synthetic_name(name, reference)
                (target / "images").mkdir(parents=True)
                for slot, view in enumerate(slot_views(manifest.rig, reference, experiment.view_conditioning)):
                    to_pil(drawn[slot]).save(target / "images" / f"cam_{view:03d}.png")
                frames = [
                    c.resized(manifest.image_size, manifest.image_size).to_frame(v)
                    for v, c in enumerate(sample.cameras[: manifest.views])
                ]
                write_json(target / "opencv_cameras.json", {"id": target.name, "frames": frames})
                metadata = {
                    "source_sample": name, "reference_view": reference, "rig_hash": manifest.rig.hash,
                    "checkpoint": str(paths.checkpoint), "sampling": experiment.sampling.model_dump(mode="json"),
                }  # fmt: skip
                write_json(target / "metadata.json", metadata)
            if float((images < 0.9).float().mean()) < 1e-3:
                raise InputError(
                    f"The {split} pictures drawn from {paths.checkpoint} are blank; judge the checkpoint again (`evaluate`)."
                )
    names = {split: [synthetic_name(n, r) for n, r in pairs] for split, pairs in plan.items()}
    provenance: dict[str, Path | str] = {"checkpoint": paths.checkpoint / "provenance.json", "manifest": paths.manifest}
    write_provenance(paths.out, "synthetic", experiment.model_dump(mode="json"), provenance, manifest.rig.hash)
    return write_manifest(
        paths.out / "manifest.json", f"{manifest.name}_synthetic", paths.out / "samples", manifest.rig,
        manifest.image_size, names["train"], names["val"],
    )  # fmt: skip
