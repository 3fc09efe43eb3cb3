"""Latent cache on disk: what the frozen VAE and CLIP towers made of each (sample, background, tint, view), once.

They are more than half of the work of an uncached training step; the 6x augmentation then only picks among
cached views.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap

from mvfl.runtime.files import InputError
from mvfl.runtime.reading import named_errors, require_file

TYPES = {"moments": np.float16, "embeds": np.float32, "cameras": np.float64}


@dataclass(frozen=True)
class LatentCache:
    """Cached moments and embeddings of one split.

    Attributes:
        moments: mean and log-variance of the VAE posterior, unscaled [sample, variant, view, 2 channel, h, w].
        embeds: CLIP image embeddings before noising [sample, variant, view, width].
        cameras: each picture's own, rows of `camera_rows` [sample, view, 16].
    """

    moments: np.ndarray
    embeds: np.ndarray
    cameras: np.ndarray

    def __len__(self) -> int:
        return len(self.moments)

    @property
    def variants(self) -> int:
        """Backgrounds times tints."""
        return self.moments.shape[1]

    @staticmethod
    def open(folder: Path, split: str) -> LatentCache:
        """Open a split by memory map.

        Raises:
            InputError: missing, cut short, or of another form.
        """
        remedy = "run the cache_latents rule again"
        arrays = []
        for key, dimensions in (("moments", 6), ("embeds", 4), ("cameras", 3)):
            path = require_file(folder / f"{split}_{key}.npy", remedy)
            with named_errors(path, "cached latents", remedy):
                array = np.load(path, mmap_mode="r")
                if array.ndim != dimensions or array.dtype != TYPES[key]:
                    raise ValueError(f"{array.ndim} dimensions of {array.dtype}")
            arrays.append(array)
        moments, embeds, cameras = arrays
        samples, _, views = moments.shape[:3]
        if moments.shape[:3] != embeds.shape[:3] or cameras.shape != (samples, views, 16) or not moments.size:
            raise InputError(f"{folder}: moments, embeddings and cameras of '{split}' are of other samples, or of none; {remedy}.")
        if not (np.isfinite(cameras).all() and (cameras[..., 12:14] > 0).all()):
            raise InputError(f"{folder / split}_cameras.npy holds cameras that are nowhere; {remedy}.")
        return LatentCache(*arrays)


class CacheWriter:
    """Fills the arrays of one split, sample by sample, on disk.

    Args:
        folder: of the cache.
        split: train or val.
        samples: how many will come.
    """

    def __init__(self, folder: Path, split: str, samples: int) -> None:
        self.folder, self.split, self.samples = folder, split, samples
        self.arrays: dict[str, np.memmap] = {}

    def write(self, index: int, values: dict[str, np.ndarray]) -> None:
        """Store what was made of one sample, one array per kind."""
        for key, value in values.items():
            if key not in self.arrays:
                self.arrays[key] = self._reserve(key, value.shape)
            self.arrays[key][index] = value

    def _reserve(self, key: str, shape: tuple[int, ...]) -> np.memmap:
        file = self.folder / f"{self.split}_{key}.npy"
        array = open_memmap(file, "w+", TYPES[key], (self.samples, *shape))
        if hasattr(os, "posix_fallocate"):  # a full disk is an error here, but a crash while the map is filled
            with open(file, "r+b") as handle:
                os.posix_fallocate(handle.fileno(), 0, file.stat().st_size)
        return array

    def close(self) -> None:
        """See that everything is on disk."""
        for array in self.arrays.values():
            array.flush()
