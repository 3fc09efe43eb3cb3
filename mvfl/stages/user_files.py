"""Files of a person that decide what the rules make: a change of them must not be overlooked. Loads no torch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mvfl.config.bases import EMBEDDED, Base, EmbeddedBase, LocalBase
from mvfl.config.datasets import Dataset, FolderDataset, MarkerlessDataset
from mvfl.runtime.files import digest, sha256

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")


def recorded_files(data: Dataset) -> list[str]:
    """Files that decide a data set: mended cameras or masks must not be overlooked. A missing one the stage names."""
    if isinstance(data, MarkerlessDataset):
        return _existing([*data.calibrations(), *data.files_of("videos"), *data.files_of("masks")])
    cameras = sorted(data.path.glob("sample_*/opencv_cameras.json")) if isinstance(data, FolderDataset) else []
    return _existing([Path(data.rig), *cameras])


def recorded_mark(data: Dataset) -> str:
    """Changes when any file of a person's recording or folder is exchanged, for an older one, too."""
    if isinstance(data, MarkerlessDataset):
        files = data.files_of("videos")
        for mask in data.files_of("masks"):
            files += _visible(mask, "*") if mask.is_dir() else [mask]
        files += _visible(data.sam2, "**/*") if data.sam2 else []
        return digest([[*map(_content, data.calibrations())], [*map(_stamp, files)]])
    if isinstance(data, FolderDataset):
        pictures = [f for f in _visible(data.path, "sample_*/**/*") if f.suffix.lower() in PICTURES or f.suffix == ".json"]
        return digest([_content(Path(data.rig)), *map(_stamp, pictures)])
    return digest([_content(Path(data.rig))])


def weights_files(base: Base) -> list[str]:
    """Weights of a person's base folder, so that an exchange of them is noticed."""
    if not isinstance(base, LocalBase):
        return []
    return _existing([*_visible(base.path, "*/*.*"), *([base.gslrm] if base.gslrm else [])])


def weights_mark(base: Base) -> str:
    """Changes when any of them is exchanged, for an older one, too, or when another version of mvfl ships another base."""
    if isinstance(base, EmbeddedBase):
        return digest([sha256(f) for f in sorted(EMBEDDED.rglob("*.safetensors"))])
    return digest([_stamp(Path(f)) for f in weights_files(base)])


def _existing(paths: Iterable[Path]) -> list[str]:
    return [str(p) for p in paths if p.is_file()]


def _visible(folder: Path, pattern: str) -> list[Path]:
    """Files below a folder, without what systems hide there (.DS_Store)."""
    return [f for f in sorted(folder.glob(pattern)) if not any(part.startswith(".") for part in f.relative_to(folder).parts)]


def _stamp(file: Path) -> list[str | int]:
    """Size and time; of a file that is not there, or a link to nothing, its name alone."""
    try:
        found = file.stat()
    except OSError:
        return [str(file)]
    return [str(file), found.st_size, found.st_mtime_ns]


def _content(file: Path) -> list[str]:
    """Hash of a small file: touching it changes nothing."""
    return [str(file), sha256(file)] if file.is_file() else [str(file)]
