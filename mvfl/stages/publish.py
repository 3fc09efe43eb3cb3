"""A finished experiment as one folder that others can load, with a card; and that folder on the model hub."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
from huggingface_hub import HfApi, ModelCard, ModelCardData

from mvfl.config.experiment import ViewSampling
from mvfl.config.strict import part_of
from mvfl.data.framing import framing, training_pictures
from mvfl.gslrm.checkpoint import load_gslrm, save_gslrm
from mvfl.layout import Checkpoint, Reconstruction, Verdict
from mvfl.mvdiffusion.unet import WEIGHTS
from mvfl.records.base import BaseRecord
from mvfl.records.decision import DecisionRecord
from mvfl.records.manifest import Manifest
from mvfl.records.published import Published
from mvfl.records.scores import ReconstructionScores, ViewScores
from mvfl.runtime.files import InputError, folder_bytes, write_text, written_aside
from mvfl.runtime.progress import say
from mvfl.stages.pages import rendered
from mvfl.stages.reconstructor import PROMPTS, SETTINGS, Learned, read_experiment

LICENCES = {"embedded": "apache-2.0", "scratch": "apache-2.0"}


def save_pretrained(experiment: Path, out: Path) -> Path:
    """Write base parts, fine-tuned weights, prompts, settings and a card into one folder; `Reconstructor.load` reads it.

    The folder has the published layout, so that it can also be the `local` base of other experiments.

    Args:
        experiment: `results/experiments/<name>` with the stages `evaluate`, `synthetic` and `gslrm` done.
        out: folder to write.

    Returns:
        The folder.

    Raises:
        InputError: a stage has not run, a file changed since, or the folder exists.
    """
    if out.exists():
        raise InputError(f"{out} exists; name another folder, or delete it first.")
    learned = read_experiment(experiment)
    checkpoint, base, manifest = Checkpoint(learned.checkpoint), BaseRecord.read(learned.base), Manifest.read(learned.manifest)
    with written_aside(out) as folder:
        for file in _parts_of(base):
            target = folder / file.relative_to(base.pipeline)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
        (folder / "unet").mkdir()
        shutil.copyfile(checkpoint.config, folder / "unet" / "config.json")
        shutil.copyfile(checkpoint.weights, folder / "unet" / WEIGHTS)
        shutil.copyfile(learned.prompts, folder / PROMPTS)
        (folder / "gslrm").mkdir()
        model = load_gslrm(learned.weights, manifest.image_size, learned.gslrm.clip_xyz)
        save_gslrm(model, folder / "gslrm" / "gslrm.safetensors", learned.gslrm.steps, learned.gslrm.steps)
        known = [framing(picture[3]) for picture in training_pictures(manifest) if (picture[3] > 0.5).any()]
        size, column, row = np.median([[f.size_ratio, *f.centre] for f in known], axis=0).tolist()
        Published(
            choice=part_of(learned.generation, ViewSampling), rig=manifest.rig.to_json(), input_views=learned.gslrm.input_views,
            size_ratio=size, centre=(column, row), clip_xyz=learned.gslrm.clip_xyz,
            fit_steps=learned.gslrm.fit_steps,
        ).write(folder / SETTINGS)  # fmt: skip
        write_text(folder / "README.md", model_card(experiment, learned, base, manifest))
    say(f"Wrote {out}, {folder_bytes(out) / 1e6:.1f} MB; look at its README.md.")
    return out


def _parts_of(base: BaseRecord) -> list[Path]:
    """The files that a base was recorded with, but for those that the experiment's stand for, and its licence: nothing else."""
    inside = [f for f in base.files if f.is_relative_to(base.pipeline) and f != base.gslrm and f.parent.name != "unet"]
    named = ["model_index.json", *(f.name for f in base.pipeline.glob("LICEN*"))]
    return inside + [base.pipeline / name for name in named if (base.pipeline / name).is_file()]


def push_to_hub(experiment: Path, repo: str, dry_run: bool = False, public: bool = False) -> list[str]:
    """Put a finished experiment on the model hub.

    Args:
        experiment: as for `save_pretrained`.
        repo: owner/name.
        dry_run: only say what would be uploaded; needs no network.
        public: otherwise a new repository is private.

    Returns:
        The files.

    Raises:
        InputError: as `save_pretrained`; not owner/name; or the hub refuses.
    """
    if repo.count("/") != 1 or not all(repo.split("/")):
        raise InputError(f"The repository is called owner/name; got {repo}.")
    with tempfile.TemporaryDirectory() as place:
        folder = save_pretrained(experiment, Path(place) / repo.split("/")[1])
        files = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
        if dry_run:
            say(f"Would upload {len(files)} files, {folder_bytes(folder) / 1e6:.1f} MB, to {repo}: {', '.join(files)}.")
            return files
        try:
            HfApi().create_repo(repo, private=not public, exist_ok=True)
            HfApi().upload_folder(repo_id=repo, folder_path=folder, commit_message=f"{experiment.name}, by mvfl")
        except Exception as error:  # the hub's and the network's own kinds are many
            raise InputError(f"{repo} could not be written: {error}. Log in with `hf auth login`, or try --dry-run.") from error
    say(f"{len(files)} files are at {repo}.")
    return files


def model_card(experiment: Path, learned: Learned, base: BaseRecord, manifest: Manifest) -> str:
    """The card: data, cameras, verdict, figures beside all baselines, licence of the base."""
    verdict = Verdict(experiment / "evaluation" / learned.checkpoint.name.replace("checkpoint", "step"))
    shapes = ReconstructionScores.read(Reconstruction(experiment / "gslrm").metrics)
    scores, decision = (
        (ViewScores.read(verdict.metrics), DecisionRecord.read(verdict.decision)) if verdict.decision.is_file() else (None, None)
    )
    licence = licence_of(base)
    data = ModelCardData(
        license=licence, library_name="mvfl", pipeline_tag="image-to-3d", base_model=base.source.get("repo"),
        license_name=None if licence != "other" else "the-licence-of-the-base", tags=["mouse", "gaussian-splatting", "multi-view"],
    )  # fmt: skip
    text = rendered(
        "model_card.md.j2", name=experiment.name, base=base, licence=licence, manifest=manifest, scores=scores,
        decision=decision, shapes=shapes, learned=learned, cameras=[camera.spherical for camera in manifest.rig.cameras],
    )  # fmt: skip
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n{text}"))


def licence_of(base: BaseRecord) -> str:
    """Licence that the base names, `other` where it names none: fine-tuned weights are bound by it."""
    card = base.pipeline / "README.md"
    named = ModelCard.load(card).data.license if card.is_file() and base.source["kind"] not in LICENCES else None
    return LICENCES.get(base.source["kind"], named or "other")
