"""Files of a person that decide what the rules make: a change of them must not be overlooked. Loads no torch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mvfl.config.bases import Base, LocalBase
from mvfl.config.datasets import Dataset, FolderDataset, MarkerlessDataset
from mvfl.runtime.files import digest


def recorded_files(data: Dataset) -> list[str]:
    """Files that decide a data set: mended cameras or masks must not be overlooked. A missing one the stage names."""
    if isinstance(data, MarkerlessDataset):
        return _existing([*data.calibrations(), *data.files_of("videos"), *data.files_of("masks")])
    cameras = sorted(data.path.glob("sample_*/opencv_cameras.json")) if isinstance(data, FolderDataset) else []
    return _existing([Path(data.rig), *cameras])


def pictures_mark(data: Dataset) -> str:
    """Changes when any picture of a person's folders is replaced; listing thousands as inputs would be slow."""
    if isinstance(data, FolderDataset):
        files = sorted(data.path.glob("sample_*/images/*"))
    elif isinstance(data, MarkerlessDataset):
        files = [f for folder in data.files_of("masks") if folder.is_dir() for f in sorted(folder.iterdir())]
    else:
        files = []
    return digest([[str(f), f.stat().st_size, f.stat().st_mtime_ns] for f in files]) if files else ""


def weights_files(base: Base) -> list[str]:
    """Weights of a person's base folder, so that an exchange of them is noticed."""
    if not isinstance(base, LocalBase):
        return []
    return _existing([*sorted(base.path.glob("*/*.*")), *([base.gslrm] if base.gslrm else [])])


def _existing(paths: Iterable[Path]) -> list[str]:
    return [str(p) for p in paths if p.is_file()]
