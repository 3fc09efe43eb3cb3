"""`index.json` of a latent cache: what it was encoded from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mvfl.config.experiment import Augmentation
from mvfl.geometry.rig import Rig
from mvfl.records.record import Record
from mvfl.runtime.files import InputError


class LatentIndex(Record):
    """Origin of a cache.

    Attributes:
        data_hash, base_hash: of the data set and the base.
        rig: cameras of the views.
        train, val: sample names, in the order of the arrays.
        seed: of the tints.
        augmentation: variants of each training picture.
        code: digest of the source that encoded them.
    """

    remedy = "run the cache_latents rule first"

    data_hash: str
    rig: dict[str, Any]
    base_hash: str
    train: list[str]
    val: list[str]
    seed: int
    augmentation: Augmentation
    code: str

    def cameras(self, path: Path) -> Rig:
        """The rig; `path` is named where a camera is impossible."""
        return Rig.from_json(self.rig, str(path))

    def require_base(self, base_hash: str, path: Path) -> None:
        """Refuse latents of another autoencoder.

        Raises:
            InputError: the cache was encoded with another base.
        """
        if self.base_hash != base_hash:
            raise InputError(f"{path} was encoded with another base ({self.base_hash}, not {base_hash}); delete it.")
