"""Calibration of a recording: R, T and K of each camera as JSON, and the way there from a pickle."""

from __future__ import annotations

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from mvfl.geometry.cameras import Camera, CameraError
from mvfl.runtime.files import InputError, write_json
from mvfl.runtime.reading import named_errors, read_table, require_file

LARGEST = 2**20  # bytes; a calibration of a hundred cameras takes a tenth
ARRAYS = ("numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric", "numpy._core.numeric")


def _empty_array(kind: Any, shape: Any, code: Any) -> np.ndarray:
    """What a pickled array begins as. A file could ask for any size here, honest ones ask for none."""
    if shape not in ((0,), 0):
        raise ValueError("it asks for an array of a size of its own, which honest ones do not")
    return np.ndarray.__new__(np.ndarray, (0,), code)


class _ArraysOnly(pickle.Unpickler):
    """Reads arrays and plain values; whatever else could run code or take memory is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}:
            return super().find_class(module, name)
        if module in ARRAYS and name == "_reconstruct":
            return _empty_array
        if module in ARRAYS and name in ("scalar", "_frombuffer"):
            return super().find_class(module, name)
        raise ValueError(f"it asks for {module}.{name}, which arrays do not need: it could run code, so it was not read")


def _read_pickle(path: Path) -> Any:
    """A pickle of arrays. Its opcodes are looked at first: some reserve memory before anything is checked.

    Raises:
        InputError: too large, damaged, or asking for anything but arrays.
    """
    remedy = "export the calibration again, as a list of cameras with R, T and K"
    data = require_file(path, remedy).read_bytes() if path.is_file() and path.stat().st_size <= LARGEST else b""
    if not data:
        raise InputError(f"{require_file(path, remedy)} is empty, or too large for a calibration (at most 1 MB); {remedy}.")
    with named_errors(path, "a pickle", remedy):
        for code, argument, _ in pickletools.genops(data):
            if code.name in ("PUT", "BINPUT", "LONG_BINPUT") and isinstance(argument, int) and argument > len(data):
                raise ValueError("it asks for memory that it cannot fill")
        return _ArraysOnly(io.BytesIO(data)).load()


def _numbers(value: Any) -> Float[np.ndarray, "..."]:
    """Up to a 4 x 4 matrix of real numbers; nested lists are counted first, since they may stand for any number of values."""
    if isinstance(value, list | tuple) and (len(value) > 4 or any(isinstance(v, list | tuple) and _deep(v) for v in value)):
        raise ValueError("lists that are no matrix")
    array = np.asarray(value)
    if array.dtype.kind not in "fiu" or array.size > 16:
        raise ValueError(f"{array.size} values of type {array.dtype}, real numbers are expected")
    return array.astype(float)


def _deep(row: list[Any] | tuple[Any, ...]) -> bool:
    return len(row) > 4 or any(isinstance(v, list | tuple) and len(v) > 1 for v in row)


def convert_calibration(source: Path, target: Path) -> int:
    """Write a pickled calibration (a list of dictionaries with R, T, K, or a dictionary of them) as JSON, once.

    Args:
        source: `new_cam.pkl`.
        target: JSON file.

    Returns:
        Number of cameras.

    Raises:
        InputError: the pickle holds anything but arrays, or misses an entry.
    """
    content = _read_pickle(source)
    with named_errors(source, "a list of cameras with R, T and K", "export the calibration again"):
        if isinstance(content, dict):
            content = [content[key] for key in sorted(content, key=int)]
        cameras = [{key: _numbers(entry[key]).tolist() for key in ("R", "T", "K")} for entry in content]
        if not cameras or not all(np.isfinite(np.concatenate([np.ravel(m) for m in c.values()])).all() for c in cameras):
            raise ValueError("no camera, or numbers that are not finite")
    write_json(target, {"cameras": cameras})
    return len(cameras)


def read_calibration(path: Path, width: int, height: int) -> list[Camera]:
    """Cameras of a recording in its own units (usually millimetres).

    Args:
        path: JSON with `cameras`, each R [3, 3] world-to-camera, T [3] and K [3, 3], projection K (R X + T).
        width, height: of the recorded pictures in pixels.

    Raises:
        InputError: missing, or not of this form.
        CameraError: a rotation that mirrors or scales, or a skewed K.
    """
    remedy = f"`mvfl calibration new_cam.pkl {path}` writes it from a pickle; docs/data.md says its form"
    entries = read_table(path, remedy).get("cameras")
    with named_errors(path, "a calibration", remedy):
        if not isinstance(entries, list) or not entries:
            raise ValueError("no list 'cameras'")
        matrices = [[_numbers(entry[key]) for key in ("R", "T", "K")] for entry in entries]
    cameras = []
    for number, (rotation, translation, k) in enumerate(matrices):
        where = f"{path}, camera {number}"
        if rotation.shape != (3, 3) or translation.size != 3 or k.shape != (3, 3):
            raise InputError(f"{where}: R and K must be 3 x 3 and T must have 3 numbers.")
        if not all(np.isfinite(m).all() for m in (rotation, translation, k)) or min(k[0, 0], k[1, 1]) <= 0:
            raise CameraError(f"{where}: R, T and K must be finite, and the focal lengths in K positive.")
        if not np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-3) or np.linalg.det(rotation) < 0.99:
            determinant = np.linalg.det(rotation)
            raise CameraError(f"{where}: R is not a rotation (det {determinant:+.3f}); write world-to-camera, OpenCV axes.")
        if abs(k[0, 1]) > 1e-3 * k[0, 0] or not np.allclose(k[2], [0, 0, 1]):
            raise CameraError(f"{where}: K has a skew or a last row that is not 0 0 1; undistort the videos first.")
        w2c = np.eye(4)
        w2c[:3, :3], w2c[:3, 3] = rotation, translation.ravel()
        cameras.append(Camera(width, height, k[0, 0], k[1, 1], k[0, 2], k[1, 2], w2c))
    return cameras
