"""Where an output came from: inputs' hashes, settings, versions, commit, rig."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from mvfl.runtime.files import sha256, write_json

PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "gsplat", "numpy", "pillow")


@functools.cache
def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def provenance(stage: str, settings: Any, inputs: dict[str, Path | str], rig_hash: str | None) -> dict[str, Any]:
    """The record as a dictionary; paths among the inputs are replaced by name and SHA-256."""
    return {
        "stage": stage,
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "mvfl": _version("mvfl"),
        "commit": _commit(),
        "python": platform.python_version(),
        "packages": {p: _version(p) for p in PACKAGES},
        "device": _device(),
        "rig_hash": rig_hash,
        "settings": settings,
        "inputs": {
            k: {"file": str(v), "sha256": sha256(v)} if isinstance(v, Path) and v.is_file() else str(v) for k, v in inputs.items()
        },
    }


def _device() -> str:
    """What computed; a stage that loaded no torch used one core."""
    if "torch" not in sys.modules:
        return "CPU, without torch"
    from mvfl.runtime.devices import describe_device

    return describe_device()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def write_provenance(folder: Path, stage: str, settings: Any, inputs: dict[str, Path | str], rig_hash: str | None = None) -> None:
    """Write `provenance.json` into a folder."""
    write_json(folder / "provenance.json", provenance(stage, settings, inputs, rig_hash))
