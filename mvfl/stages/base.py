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
from mvfl.records.base import BaseRecord, Fetched, gslrm_checkpoint, record_base
from mvfl.records.manifest import Manifest
from mvfl.runtime.devices import device
from mvfl.runtime.files import InputError, sweep_partials, write_json, written_aside
from mvfl.runtime.progress import say
from mvfl.runtime.provenance import write_provenance
from mvfl.stages.jobs import BaseJob

QUALITY = "autoencoder.json"
JUDGED = 100  # held-out samples that the autoencoder is judged on


def run(job: BaseJob) -> BaseRecord:
    """Check or build a base and write `job.out/base.json`.

    Raises:
        InputError: files are missing or damaged.
    """
    sweep_partials(job.out)
    record = prepare_base(job.base, job.out, job.manifest, job.fetched)
    inputs: dict[str, Path | str] = {"files": record.hash} | ({"manifest": job.manifest} if job.manifest else {})
    write_provenance(job.out, "base", job.base.model_dump(mode="json"), inputs)
    say(f"Base {record.hash}: pipeline {record.pipeline}, GS-LRM {record.gslrm or 'none'}.")
    return record


def prepare_base(settings: Base, out: Path, manifest: Path | None = None, fetched: Path | None = None) -> BaseRecord:
    """The stage without its provenance.

    Args:
        settings: kind of base.
        out: folder of the base among the results.
        manifest: data set for the autoencoder of a scratch base.
        fetched: where the files of a base on the hub lie.
    """
    if isinstance(settings, HubBase):
        if fetched is None:
            raise InputError(f"The files of {settings.repo} are fetched first; run the fetch_base rule.")
        there = Fetched.read(fetched)
        source = settings.model_dump(mode="json") | {"commit": there.commit}
        return record_base(out / "base.json", there.pipeline, there.gslrm, source)
    pipeline, gslrm = _files_of(settings, out, manifest)
    return record_base(out / "base.json", pipeline, gslrm, settings.model_dump(mode="json"))


def _files_of(settings: EmbeddedBase | LocalBase | ScratchBase, out: Path, manifest: Path | None) -> tuple[Path, Path | None]:
    """Folder of the pipeline, and the GS-LRM checkpoint."""
    if isinstance(settings, EmbeddedBase):
        if not EMBEDDED.is_dir():
            raise InputError(f"{EMBEDDED} does not exist: the embedded base was not installed. Install mvfl again.")
        return EMBEDDED, EMBEDDED / "gslrm" / "gslrm.safetensors"
    if isinstance(settings, LocalBase):
        if not settings.path.is_dir():
            raise InputError(f"Base folder {settings.path} does not exist; set bases.<name>.path.")
        return settings.path, settings.gslrm or gslrm_checkpoint(settings.path)
    if manifest is None:
        raise InputError("A scratch base trains its autoencoder on a data set; none was given.")
    return _build(settings, out, Manifest.read(manifest))


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
