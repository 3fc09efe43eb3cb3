"""Stage `base`: make a base ready and record it; no kind of base ever falls back to another."""

from __future__ import annotations

from pathlib import Path

import torch

from mvfl.config.bases import EMBEDDED, Base, EmbeddedBase, HubBase, LocalBase, ScratchBase
from mvfl.data.pictures import all_pictures
from mvfl.gslrm.checkpoint import save_gslrm
from mvfl.gslrm.model import Gslrm, GslrmConfig
from mvfl.mvdiffusion.autoencoder import autoencoder_quality, train_autoencoder
from mvfl.mvdiffusion.small_base import build_autoencoder, build_base
from mvfl.records.base import BaseRecord, gslrm_checkpoint, record_base
from mvfl.records.manifest import Manifest
from mvfl.runtime.devices import device
from mvfl.runtime.files import InputError, sweep_partials, write_json, written_aside
from mvfl.runtime.progress import say
from mvfl.runtime.provenance import write_provenance
from mvfl.stages.jobs import BaseJob

QUALITY = "autoencoder.json"
JUDGED = 100  # held-out samples that the autoencoder is judged on


def run(job: BaseJob) -> BaseRecord:
    """Check, download or build a base and write `job.out/base.json`.

    Raises:
        InputError: files are missing or damaged, or a download is impossible.
    """
    sweep_partials(job.out)
    record = prepare_base(job.base, job.out, job.manifest)
    inputs: dict[str, Path | str] = {"files": record.hash} | ({"manifest": job.manifest} if job.manifest else {})
    write_provenance(job.out, "base", job.base.model_dump(mode="json"), inputs)
    say(f"Base {record.hash}: pipeline {record.pipeline}, GS-LRM {record.gslrm or 'none'}.")
    return record


def prepare_base(settings: Base, out: Path, manifest: Path | None = None) -> BaseRecord:
    """The stage without its provenance.

    Args:
        settings: kind of base.
        out: folder of the base among the results.
        manifest: data set for the autoencoder of a scratch base.
    """
    pipeline, gslrm = _files_of(settings, out, manifest)
    return record_base(out / "base.json", pipeline, gslrm, settings.model_dump(mode="json"))


def _files_of(settings: Base, out: Path, manifest: Path | None) -> tuple[Path, Path | None]:
    """Folder of the pipeline, and the GS-LRM checkpoint."""
    if isinstance(settings, EmbeddedBase):
        if not EMBEDDED.is_dir():
            raise InputError(f"{EMBEDDED} does not exist: the embedded base was not installed. Install mvfl again.")
        return EMBEDDED, EMBEDDED / "gslrm" / "gslrm.safetensors"
    if isinstance(settings, LocalBase):
        if not settings.path.is_dir():
            raise InputError(f"Base folder {settings.path} does not exist; set bases.<name>.path.")
        return settings.path, settings.gslrm or gslrm_checkpoint(settings.path)
    if isinstance(settings, HubBase):
        root = _download(settings)
        return root / settings.pipeline, root / settings.gslrm if settings.gslrm else None
    if manifest is None:
        raise InputError("A scratch base trains its autoencoder on a data set; none was given.")
    return _build(settings, out, Manifest.read(manifest))


def _download(settings: HubBase) -> Path:
    """Fetch a pinned revision; files that are already there are not fetched again, broken transfers resume."""
    from huggingface_hub import snapshot_download

    wanted = [f"{settings.pipeline}/**"] + ([settings.gslrm] if settings.gslrm else [])
    try:
        return Path(snapshot_download(settings.repo, revision=settings.revision, allow_patterns=wanted))
    except Exception as error:
        raise InputError(
            f"{settings.repo} at revision {settings.revision} could not be fetched ({error}). On a machine without a "
            "network, copy the folder there and use a base of kind 'local'."
        ) from error


def _build(settings: ScratchBase, out: Path, manifest: Manifest) -> tuple[Path, Path]:
    """Random weights around an autoencoder that is trained here."""
    if manifest.image_size != settings.image_size:
        raise InputError(
            f"The scratch base is {settings.image_size} px, its data set {manifest.name} {manifest.image_size} px; make them equal."
        )
    torch.manual_seed(settings.seed)
    vae = build_autoencoder(settings)
    pictures = all_pictures(manifest, manifest.train)
    train_autoencoder(vae, pictures, settings.autoencoder, settings.seed, device())
    quality = autoencoder_quality(vae, all_pictures(manifest, manifest.val[:JUDGED]), device())
    say(f"Autoencoder on held-out pictures: {quality}")
    write_json(out / QUALITY, quality)
    with written_aside(out / "pipeline") as folder:
        build_base(settings, manifest.views, vae.to("cpu"), folder)
        (folder / "gslrm").mkdir()
        save_gslrm(build_gslrm(settings), folder / "gslrm" / "gslrm.safetensors", 0, 0)
    return out / "pipeline", out / "pipeline" / "gslrm" / "gslrm.safetensors"


def build_gslrm(settings: ScratchBase) -> Gslrm:
    """A small GS-LRM with random weights."""
    torch.manual_seed(settings.seed + 1)
    return Gslrm(
        GslrmConfig(settings.image_size, settings.gslrm_patch, settings.gslrm_width, head_width=32, layers=settings.gslrm_layers)
    )
