"""Latent cache: the frozen VAE and CLIP towers run once per (sample, background, tint, view).

They are more than half of the work of an uncached training step; the 6x augmentation then only picks among
cached views.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.lib.format import open_memmap
from torch import Tensor

from mvfl.config.schema import Augmentation
from mvfl.data.samples import BACKGROUND_LEVEL, Manifest, composite
from mvfl.mvdiffusion.pipeline import MultiViewPipeline
from mvfl.runtime.files import InputError, read_json, write_json, written_aside
from mvfl.runtime.progress import tracked
from mvfl.runtime.provenance import write_provenance


def tinted(rgba: Float[Tensor, "view 4 height width"], brightness: float, contrast: float) -> Float[Tensor, "view 4 height width"]:
    """Scale brightness, then contrast about the animal's mean over all views; the background is not touched."""
    rgb, alpha = rgba[:, :3] * brightness, rgba[:, 3:]
    mean = (rgb * alpha).sum((0, 2, 3), keepdim=True) / alpha.sum().clamp(min=1)
    return torch.cat([((rgb - mean) * contrast + mean).clamp(0, 1), alpha], dim=1)


def clip_pixels(
    images: Float[Tensor, "n 3 height width"], size: int, mean: list[float], std: list[float]
) -> Float[Tensor, "n 3 crop crop"]:
    """CLIP input as in training: antialiased bicubic resize of floats straight to the crop size, not clamped."""
    resized = F.interpolate(images, (size, size), mode="bicubic", antialias=True)
    shape = (1, 3, 1, 1)
    return (resized - torch.tensor(mean).view(shape).to(images)) / torch.tensor(std).view(shape).to(images)


def _variants(augmentation: Augmentation, seed: int, index: int) -> list[tuple[float, float, float]]:
    """(background level, brightness, contrast) per variant of one sample; the first tint is the picture as it is."""
    out = []
    for tint in range(augmentation.tints):
        draw = np.random.default_rng([seed, index, tint]).uniform(-1, 1, 2) * augmentation.tint_strength
        brightness, contrast = (1.0, 1.0) if tint == 0 else (1 + draw[0], 1 + draw[1])
        out += [(BACKGROUND_LEVEL[b], float(brightness), float(contrast)) for b in augmentation.backgrounds]
    return out


@torch.no_grad()
def cache_latents(
    manifest: Manifest, pipeline: MultiViewPipeline, augmentation: Augmentation, seed: int, base_hash: str, out: Path
) -> None:
    """Encode all samples into `out` (written aside, renamed when whole).

    Args:
        manifest: data set.
        pipeline: base with VAE and image encoder, on the device to use.
        augmentation: variants for training; validation samples get white and no tint.
        seed: of the tints.
        base_hash: recorded, so that training refuses a cache of another base.
        out: cache folder.

    Raises:
        InputError: the base draws another image size, or the disk is full.
    """
    if manifest.image_size != pipeline.image_size:
        raise InputError(
            f"Data set {manifest.name} has pictures of {manifest.image_size} px, the base draws {pipeline.image_size} px; set "
            f"image_size {pipeline.image_size} in datasets.{manifest.name}, or use another base."
        )
    size = pipeline.image_encoder.config.image_size
    mean, std = pipeline.feature_extractor.image_mean, pipeline.feature_extractor.image_std
    plain = Augmentation(backgrounds=["white"], tints=1, tint_strength=0)
    with written_aside(out) as folder:
        folder.mkdir()
        for split, names, kind in (("train", manifest.train, augmentation), ("val", manifest.val, plain)):
            arrays: dict[str, np.memmap] = {}
            for i, rgba in tracked(enumerate(manifest.read_ahead(names)), f"latents {split}", len(names)):
                variants = _variants(kind, seed, i)
                images = torch.cat([composite(tinted(rgba, b, c), level) for level, b, c in variants])
                images = images.to(pipeline.device)
                posterior = pipeline.vae.encode((2 * images - 1).to(pipeline.vae.dtype)).latent_dist
                pixels = clip_pixels(images, size, mean, std).to(pipeline.image_encoder.dtype)
                embeds = pipeline.image_encoder(pixels).image_embeds
                for key, value, kind_of in (
                    ("moments", posterior.parameters, np.float16),
                    ("embeds", embeds, np.float32),
                ):
                    value = value.float().cpu().numpy().reshape(len(variants), len(rgba), *value.shape[1:])
                    if key not in arrays:
                        shape = (len(names), *value.shape)
                        file = folder / f"{split}_{key}.npy"
                        arrays[key] = open_memmap(file, "w+", kind_of, shape)
                        if hasattr(os, "posix_fallocate"):  # a full disk is an error here, but a crash while the map is filled
                            with open(file, "r+b") as handle:
                                os.posix_fallocate(handle.fileno(), 0, file.stat().st_size)
                    arrays[key][i] = value
            for array in arrays.values():
                array.flush()
        write_json(
            folder / "index.json",
            {
                "data_hash": manifest.data_hash, "rig": manifest.rig.to_json(), "base_hash": base_hash,
                "train": manifest.train, "val": manifest.val, "seed": seed,
                "augmentation": augmentation.model_dump(mode="json"),
            },
        )  # fmt: skip
        settings = {"augmentation": augmentation.model_dump(mode="json"), "seed": seed}
        write_provenance(folder, "latents", settings, {"data": manifest.data_hash, "base": base_hash}, manifest.rig.hash)


@dataclass(frozen=True)
class LatentCache:
    """Cached moments and embeddings of one split.

    Attributes:
        moments: mean and log-variance of the VAE posterior, unscaled [sample, variant, view, 2 channel, h, w].
        embeds: CLIP image embeddings before noising [sample, variant, view, width].
    """

    moments: np.ndarray
    embeds: np.ndarray

    def __len__(self) -> int:
        return len(self.moments)

    @property
    def variants(self) -> int:
        """Backgrounds times tints."""
        return self.moments.shape[1]


def open_cache(folder: Path, split: str) -> LatentCache:
    """Open a cache by memory map."""
    read_json(folder / "index.json", "run the cache_latents rule first")
    arrays = [np.load(folder / f"{split}_{key}.npy", mmap_mode="r") for key in ("moments", "embeds")]
    return LatentCache(*arrays)
