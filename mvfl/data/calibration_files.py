"""The forms in which labs keep calibrations, each read into plain tables of one camera.

JSON and pickle (R, T, K), TOML (anipose, sleap-anipose, caliscope), OpenCV's FileStorage (YAML, XML). What the numbers mean, and
whether they are possible, `calibration.py` says.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mvfl.data.pickled import LARGEST, read_pickle
from mvfl.runtime.files import InputError
from mvfl.runtime.reading import named_errors, read_text, require_file

REMEDY = "export the calibration again; docs/data.md lists the forms that are read"
# Names of one and the same thing in the programs that write calibrations; compared without case and underscores.
KEYS = {
    "matrix": ("matrix", "k", "cameramatrix", "intrinsicmatrix", "intrinsics"),
    "distortion": ("distortions", "distortion", "distortioncoefficients", "distcoeffs", "dist", "d"),
    "rotation": ("rotation", "r", "rotationmatrix", "rvec"),
    "translation": ("translation", "t", "tvec", "translationvector"),
    "size": ("size", "imagesize"),
    "width": ("imagewidth", "width"),
    "height": ("imageheight", "height"),
    "name": ("name", "port", "camid"),
    "fisheye": ("fisheye",),
    "ignore": ("ignore",),
}
Entry = dict[str, Any]


def named_entry(raw: Any) -> Entry:
    """A camera's table under the names of `KEYS`; what is not known is left out.

    Raises:
        ValueError: not a table.
    """
    if not isinstance(raw, dict):
        raise ValueError(f"a camera must be a table, it is a {type(raw).__name__}")
    plain = {str(key).lower().replace("_", ""): value for key, value in raw.items()}
    return {key: plain[word] for key, words in KEYS.items() for word in reversed(words) if word in plain}


def read_entries(path: Path) -> list[Entry]:
    """All cameras of a file, in its order.

    Raises:
        InputError: missing, damaged, or of no known form.
    """
    suffix = path.suffix.lower()
    if suffix in (".pkl", ".pickle"):
        content = read_pickle(path)
    elif suffix == ".toml":
        content = _toml(path)
    elif suffix in (".yml", ".yaml", ".xml"):
        content = _file_storage(path)
    elif suffix == ".json":
        content = _json(path)
    else:
        raise InputError(f"{path}: a calibration is .json, .pkl, .toml, .yaml, .yml or .xml, not '{suffix}'; {REMEDY}.")
    with named_errors(path, "a calibration", REMEDY):
        entries = [e for e in (named_entry(raw) for raw in _cameras_of(content)) if not e.get("ignore")]
        if not entries:
            raise ValueError("it names no camera")
        return entries


def _cameras_of(content: Any) -> list[Any]:
    """The cameras' tables: a list, `cameras: [...]`, one table per camera, or a single camera."""
    if isinstance(content, dict) and "cameras" in content:
        content = content["cameras"]
    if isinstance(content, list | tuple):
        return list(content)
    if not isinstance(content, dict):
        raise ValueError(f"a list or a table of cameras is expected, found a {type(content).__name__}")
    if "matrix" in named_entry(content):
        return [content]
    tables = {key: value for key, value in content.items() if isinstance(value, dict) and key != "metadata"}
    # Beside its cameras, a session's file has tables of other things (caliscope: charuco, capture_volume).
    tables = {key: value for key, value in tables.items() if "matrix" in named_entry(value)} or tables
    if tables and all(str(key).isdecimal() for key in tables):
        tables = {key: tables[key] for key in sorted(tables, key=int)}
    return [value if "name" in named_entry(value) else {"name": str(key), **value} for key, value in tables.items()]


def _json(path: Path) -> Any:
    from mvfl.runtime.reading import read_json

    return read_json(path, f"`mvfl calibration new_cam.pkl {path}` writes it from a pickle; docs/data.md says its form")


def _toml(path: Path) -> Any:
    text = read_text(path, REMEDY)
    with named_errors(path, "TOML", REMEDY):
        return tomllib.loads(text)


def _file_storage(path: Path) -> Any:
    if require_file(path, REMEDY).stat().st_size > LARGEST:
        raise InputError(f"{path} is too large for a calibration (at most 1 MB); {REMEDY}.")
    text = read_text(path, REMEDY)
    with named_errors(path, "a file of OpenCV's FileStorage", REMEDY):
        kind = cv2.FILE_STORAGE_FORMAT_XML if path.suffix.lower() == ".xml" else cv2.FILE_STORAGE_FORMAT_YAML
        storage = cv2.FileStorage(text, cv2.FILE_STORAGE_READ | cv2.FILE_STORAGE_MEMORY | kind)
        try:
            return _node(storage.root())
        finally:
            storage.release()


def _node(node: Any, depth: int = 0) -> Any:
    """A node of a FileStorage as plain values; matrices as arrays."""
    if depth > 6:
        raise ValueError("nested too deeply")
    if node.isMap():
        keys = node.keys()
        if {"dt", "data"} <= set(keys):  # a matrix, or since OpenCV 5 a vector
            return np.asarray(node.mat())
        return {key: _node(node.getNode(key), depth + 1) for key in keys}
    if node.isSeq():
        return [_node(node.at(i), depth + 1) for i in range(min(node.size(), 100))]
    return node.string() if node.isString() else node.real()
