"""A base of random weights in the published layout, at small sizes, around an autoencoder that is trained first."""

from __future__ import annotations

from pathlib import Path

import torch

from mvfl.config.bases import ScratchBase
from mvfl.data.pictures import all_pictures
from mvfl.gslrm.checkpoint import save_gslrm
from mvfl.gslrm.model import Gslrm, GslrmConfig
from mvfl.mvdiffusion.autoencoder import autoencoder_quality, train_autoencoder
from mvfl.mvdiffusion.small_base import build_autoencoder, build_base
from mvfl.records.manifest import Manifest
from mvfl.runtime.devices import device
from mvfl.runtime.files import InputError, write_json, written_aside
from mvfl.runtime.progress import say

QUALITY = "autoencoder.json"
JUDGED = 100  # held-out samples that the autoencoder is judged on


def build_scratch(settings: ScratchBase, out: Path, data: Path) -> tuple[Path, Path]:
    """Random weights around an autoencoder that is trained here.

    Args:
        settings: sizes, and the autoencoder's training.
        out: folder of the base among the results.
        data: manifest of the data set that the autoencoder learns from.

    Returns:
        Folder of the pipeline, and the GS-LRM checkpoint.

    Raises:
        InputError: the pictures have another size.
    """
    manifest = Manifest.read(data)
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
