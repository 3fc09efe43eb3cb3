"""Calibration of a recording: R, T and K of each camera as JSON, and the way there from a pickle."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from mvfl.geometry.cameras import Camera, CameraError
from mvfl.runtime.files import InputError, write_json

# What a pickled list of numpy arrays needs; anything else could run code.
HARMLESS = {
    ("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode"),
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    ("numpy.core.numeric", "_frombuffer"), ("numpy._core.numeric", "_frombuffer"),
}  # fmt: skip


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in HARMLESS:
            raise InputError(f"The pickle asks for {module}.{name}, which arrays do not need: it could run code. It was not read.")
        return super().find_class(module, name)


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
    try:
        with open(source, "rb") as handle:
            content = _ArraysOnly(handle).load()
    except (OSError, pickle.UnpicklingError, EOFError) as error:
        raise InputError(f"{source} cannot be read as a pickle ({error}).") from error
    if isinstance(content, dict):
        content = [content[key] for key in sorted(content, key=int)]
    try:
        cameras = [{key: np.asarray(entry[key], dtype=float).tolist() for key in ("R", "T", "K")} for entry in content]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{source} is not a list of cameras with R, T and K ({error!r}).") from error
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
    try:
        entries = json.loads(path.read_text())["cameras"]
        matrices = [[np.asarray(entry[key], dtype=float) for key in ("R", "T", "K")] for entry in entries]
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; `mvfl calibration new_cam.pkl {path}` writes it from a pickle.") from error
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is not a calibration ({error!r}); see docs/data.md for its form.") from error
    cameras = []
    for number, (rotation, translation, k) in enumerate(matrices):
        where = f"{path}, camera {number}"
        if rotation.shape != (3, 3) or translation.size != 3 or k.shape != (3, 3):
            raise InputError(f"{where}: R and K must be 3 x 3 and T must have 3 numbers.")
        if not np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-3) or np.linalg.det(rotation) < 0.99:
            determinant = np.linalg.det(rotation)
            raise CameraError(f"{where}: R is not a rotation (det {determinant:+.3f}); write world-to-camera, OpenCV axes.")
        if abs(k[0, 1]) > 1e-3 * k[0, 0] or not np.allclose(k[2], [0, 0, 1]):
            raise CameraError(f"{where}: K has a skew or a last row that is not 0 0 1; undistort the videos first.")
        w2c = np.eye(4)
        w2c[:3, :3], w2c[:3, 3] = rotation, translation.ravel()
        cameras.append(Camera(width, height, k[0, 0], k[1, 1], k[0, 2], k[1, 2], w2c))
    return cameras
