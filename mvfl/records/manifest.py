"""`manifest.json`: what a data set holds, written once by the stage that made or checked it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import Field

from mvfl.geometry.rig import Rig
from mvfl.records.record import Record
from mvfl.records.samples import CAMERAS, Sample, read_sample
from mvfl.runtime.files import digest, sha256


class _ManifestFile(Record):
    """The file's entries; paths are relative to the file where they can be."""

    remedy = "run the `data` target first"

    name: str
    root: Path
    image_size: int
    rig: dict[str, Any]
    train: list[str]
    val: list[str]
    data_hash: str
    files: dict[str, str]
    millimetres: float | None = None
    test: list[str] = Field([])


@dataclass(frozen=True)
class Manifest:
    """A data set.

    Attributes:
        name: of the data set.
        root: folder of the sample folders.
        rig: cameras of the slots, at `image_size`.
        image_size: pixels per side that stages read.
        train, val, test: sample folder names; nothing is trained or chosen by those of `test`, which may be empty.
        data_hash: changes when any file changes.
        millimetres: in one world unit, where a calibration tells.
    """

    name: str
    root: Path
    rig: Rig
    image_size: int
    train: list[str]
    val: list[str]
    data_hash: str
    millimetres: float | None = None
    test: Sequence[str] = ()

    @property
    def judging(self) -> Sequence[str]:
        """Samples on which results are reported: those that nothing was chosen by, where there are some."""
        return self.test or self.val

    @property
    def names(self) -> list[str]:
        """All samples, block after block."""
        return [*self.train, *self.val, *self.test]

    @property
    def views(self) -> int:
        """Views that a model samples: those of the rig."""
        return len(self.rig.cameras)

    def sample(self, name: str) -> Sample:
        """Read one sample's cameras."""
        return read_sample(self.root / name, self.views)

    @staticmethod
    def read(path: Path) -> Manifest:
        """Read `manifest.json`.

        Raises:
            InputError: missing or damaged; CameraError: an impossible rig.
        """
        data = _ManifestFile.read(path)
        root = data.root if data.root.is_absolute() else path.parent / data.root
        rig = Rig.from_json(data.rig, str(path))
        return Manifest(data.name, root, rig, data.image_size, data.train, data.val, data.data_hash, data.millimetres, data.test)

    @staticmethod
    def write(
        path: Path, name: str, root: Path, rig: Rig, image_size: int, train: list[str], val: list[str],
        millimetres: float | None = None, known: dict[str, str] | None = None, test: Sequence[str] = (),
    ) -> Manifest:  # fmt: skip
        """Hash all files of the listed samples and write `manifest.json`.

        Args:
            path: the file.
            name, root, rig, image_size, train, val, millimetres, test: see the class.
            known: hashes of files that were read just now, by their path below `root`.
        """
        hashes, known = {}, known or {}
        for sample in [*train, *val, *test]:
            read = read_sample(root / sample, len(rig.cameras))
            for file in [*read.files, root / sample / CAMERAS]:
                relative = str(file.relative_to(root))
                hashes[relative] = known.get(relative) or sha256(file)
        data_hash = digest([hashes, rig.hash, image_size, train, val, *([list(test)] if test else [])])
        place = root.relative_to(path.parent) if root.is_relative_to(path.parent) else root.resolve()
        _ManifestFile(
            name=name, root=place, image_size=image_size, rig=rig.to_json(), train=train, val=val, data_hash=data_hash,
            files=hashes, millimetres=millimetres, test=list(test),
        ).write(path)  # fmt: skip
        return Manifest(name, root, rig, image_size, train, val, data_hash, millimetres, test)


T = TypeVar("T")


def evenly(names: Sequence[T], count: int) -> list[T]:
    """At most `count` of them, spread evenly: neighbouring frames of a recording are nearly the same picture."""
    if len(names) <= count:
        return list(names)
    return [names[round(i)] for i in np.linspace(0, len(names) - 1, count)]
