"""Writing files so that nothing half-written is ever taken for whole."""

from __future__ import annotations

import contextlib
import csv
import errno
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError


class InputError(Exception):
    """Something the user gave cannot be used; the message names the file and the remedy."""


@contextlib.contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling of `path` (file or folder) that takes its place when the block ends well.

    The temporary name holds the process id. On any exception, a full disk included, it is removed and an
    older `path` stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial-{os.getpid()}")
    _remove(temporary)
    try:
        yield temporary
        _give_usual_rights(temporary)
        if temporary.is_file():
            with open(temporary, "rb") as handle:
                os.fsync(handle.fileno())
        if temporary.is_dir() and path.exists():
            old = path.with_name(f".{path.name}.old-{os.getpid()}")
            os.replace(path, old)
            os.replace(temporary, path)
            _remove(old)
        else:
            os.replace(temporary, path)
    except BaseException as error:
        _remove(temporary)
        if reason := _why_not_written(error):
            raise InputError(f"Could not write {path}: {reason}. Free some space or mend the rights, and run again.") from error
        raise


def _why_not_written(error: BaseException) -> str | None:
    """What stopped a writer, if it was the disk; each library says it in its own way, not all with an errno."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES):
        return error.strerror
    numpy = isinstance(error, OSError) and error.errno is None and "requested and" in str(error)
    torch = isinstance(error, RuntimeError) and "inline_container" in str(error)
    if numpy or torch or (isinstance(error, SafetensorError) and "I/O error" in str(error)):
        return f"the file could not be written to its end ({error})"
    return None


def sweep_partials(folder: Path, name: str = "*") -> None:
    """Remove what killed jobs left half-written of `folder/name`. Call it only while no other process writes there."""
    for leftover in folder.glob(f".{name}.partial-*"):
        _remove(leftover)


def _give_usual_rights(path: Path) -> None:
    """Some writers make files that only their owner can read; colleagues share these results."""
    mask = os.umask(0)
    os.umask(mask)
    for file in [path, *path.rglob("*")] if path.is_dir() else [path]:
        if file.is_file() and not file.is_symlink():
            file.chmod(0o666 & ~mask)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with written_aside(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> None:
    """Write a table atomically; default of the columns: those of the first row."""
    text = io.StringIO()
    table = csv.DictWriter(text, columns or list(rows[0]))
    table.writeheader()
    table.writerows(rows)
    write_text(path, text.getvalue())


def write_json(path: Path, data: Any) -> None:
    """Write JSON atomically; NaN and infinity are refused because JSON has no word for them."""
    write_text(path, json.dumps(data, indent=1, allow_nan=False) + "\n")


def folder_bytes(folder: Path) -> int:
    """Size of all files; some may vanish while they are counted, since a running job renames and removes."""
    total = 0
    for place, _, names in os.walk(folder):  # passes over folders that are gone when it comes to them
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(os.path.join(place, name)).st_size
    return total


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def digest(data: Any) -> str:
    """Sixteen hex digits of a JSON-like value; equal values give equal digits."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, default=str).encode()).hexdigest()[:16]
