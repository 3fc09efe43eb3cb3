"""Stage `base`: make a base ready and record it; no kind of base ever falls back to another."""

from __future__ import annotations

from pathlib import Path

import torch

from mvfl.base.autoencoder import AutoencoderTraining, train_autoencoder
from mvfl.base.build import Architecture, build_autoencoder, build_base, build_gslrm
from mvfl.base.record import BaseRecord, write_record
from mvfl.base.train import load_pictures
from mvfl.config.schema import Base, EmbeddedBase, HubBase, LocalBase, ScratchBase
from mvfl.config.workflow import EMBEDDED
from mvfl.data.samples import read_manifest
from mvfl.gslrm.checkpoint import save_gslrm
from mvfl.runtime.devices import device
from mvfl.runtime.files import InputError, written_aside


def prepare_base(settings: Base, out: Path, manifest: Path | None = None) -> BaseRecord:
    """Check, download or build a base and write `out/base.json`.

    Args:
        settings: kind of base.
        out: folder of the base among the results.
        manifest: data set for the autoencoder of a scratch base.

    Raises:
        InputError: files are missing or a download is impossible.
    """
    source = settings.model_dump(mode="json")
    if isinstance(settings, EmbeddedBase):
        if not EMBEDDED.is_dir():
            raise InputError(f"{EMBEDDED} does not exist: the embedded base was not installed. Install mvfl again.")
        return write_record(out / "base.json", EMBEDDED, EMBEDDED / "gslrm" / "gslrm.safetensors", source)
    if isinstance(settings, LocalBase):
        if not settings.path.is_dir():
            raise InputError(f"Base folder {settings.path} does not exist; set bases.<name>.path.")
        gslrm = settings.gslrm or next(iter(sorted((settings.path / "gslrm").glob("*"))), None)
        return write_record(out / "base.json", settings.path, gslrm, source)
    if isinstance(settings, HubBase):
        root = _download(settings)
        gslrm = root / settings.gslrm if settings.gslrm else None
        return write_record(out / "base.json", root / settings.pipeline, gslrm, source)
    if manifest is None:
        raise InputError("A scratch base trains its autoencoder on a data set; none was given.")
    return _build_scratch(settings, out, manifest)


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


def _build_scratch(settings: ScratchBase, out: Path, manifest_path: Path) -> BaseRecord:
    manifest = read_manifest(manifest_path)
    if manifest.image_size != settings.image_size:
        raise InputError(
            f"The scratch base is {settings.image_size} px, its data set {manifest.name} {manifest.image_size} px; make them equal."
        )
    a = Architecture(
        settings.image_size, settings.latent_channels, list(settings.autoencoder_channels), list(settings.unet_channels), 1,
        settings.attention, "relative_pose", manifest.views, 64, settings.gslrm_width, settings.gslrm_layers,
    )  # fmt: skip
    torch.manual_seed(settings.seed)
    vae = build_autoencoder(a)
    training = AutoencoderTraining(steps=settings.autoencoder_steps, batch_size=12, seed=settings.seed)
    train_autoencoder(vae, load_pictures(manifest, manifest.train), training, device())
    with written_aside(out / "pipeline") as folder:
        build_base(a, vae.to("cpu"), folder, settings.seed)
        (folder / "gslrm").mkdir()
        save_gslrm(build_gslrm(a, settings.seed), folder / "gslrm" / "gslrm.safetensors", 0, 0)
    gslrm = out / "pipeline" / "gslrm" / "gslrm.safetensors"
    return write_record(out / "base.json", out / "pipeline", gslrm, settings.model_dump(mode="json"))
