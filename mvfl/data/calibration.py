"""Calibration of a recording: cameras with lenses, from the forms in which labs keep them, turned so that Z points up."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float

from mvfl.config.datasets import Floor, LevelCamera, Up
from mvfl.data.calibration_files import REMEDY, Entry, named_entry, read_entries
from mvfl.data.pickled import read_pickle
from mvfl.geometry.cameras import Camera, CameraError
from mvfl.geometry.lens import LensCamera
from mvfl.runtime.files import InputError, write_json
from mvfl.runtime.reading import named_errors

KNOWN_LENSES = (0, 4, 5, 8)
LARGEST_COEFFICIENT = 100.0
# Formats of OpenCV's family count pixels from the middle of the first one, mvfl from its corner.
FROM_PIXEL_CENTRES = (".toml", ".yml", ".yaml", ".xml")
AXES = {"x": (1, 0, 0), "y": (0, 1, 0), "z": (0, 0, 1), "-x": (-1, 0, 0), "-y": (0, -1, 0), "-z": (0, 0, -1)}
SAME_PLACE, SAME_ANGLE = 1e-3, 0.5  # of the mean distance between cameras, degrees: two of them are one


def _numbers(value: Any, most: int = 16) -> Float[np.ndarray, "..."]:
    """Up to a 4 x 4 matrix of real numbers; nested lists are counted first, since they may stand for any number of values."""
    if isinstance(value, list | tuple) and (len(value) > most or any(isinstance(v, list | tuple) and _deep(v) for v in value)):
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
    content = read_pickle(source)
    with named_errors(source, "a list of cameras with R, T and K", "export the calibration again"):
        if isinstance(content, dict):
            content = [content[key] for key in sorted(content, key=int)]
        cameras = [{key: _numbers(entry[key]).tolist() for key in ("R", "T", "K")} for entry in content]
        for camera, entry in zip(cameras, content, strict=True):
            bent = named_entry(entry).get("distortion")
            if bent is not None and np.any(_numbers(bent)):
                camera["distortion"] = _numbers(bent).ravel().tolist()
        if not cameras or not all(np.isfinite(np.concatenate([np.ravel(m) for m in c.values()])).all() for c in cameras):
            raise ValueError("no camera, or numbers that are not finite")
    write_json(target, {"cameras": cameras})
    return len(cameras)


def read_calibration(
    path: Path, names: Sequence[str], sizes: Sequence[tuple[int, int]], every_camera: bool = True
) -> list[LensCamera]:
    """Cameras of a recording in its own units (usually millimetres) and its own world, in the order of `names`.

    Args:
        path: a file of all cameras; or a pattern with {camera}, one file per camera.
        names: of the cameras of the recording. A calibration without names is taken in this order.
        sizes: width and height in pixels of each camera's videos.
        every_camera: refuse calibrated cameras that are not among the names.

    Raises:
        InputError: missing, of no known form, or of other cameras.
        CameraError: a rotation that mirrors or scales, a skewed K, a lens that is not known, or one camera in place of another.
    """
    if "{camera}" in str(path):
        files = [Path(str(path).replace("{camera}", name)) for name in names]
        found = [(file, read_entries(file)[0]) for file in files]
    else:
        found = [(path, entry) for entry in _of_names(path, names, every_camera)]
    cameras = [_camera(entry, file, name, size) for (file, entry), name, size in zip(found, names, sizes, strict=True)]
    _refuse_copies(path, cameras)
    return cameras


def _of_names(path: Path, names: Sequence[str], every_camera: bool) -> list[Entry]:
    """The entry of each name."""
    entries = read_entries(path)
    given = [str(e["name"]) for e in entries if "name" in e]
    if not given:
        given = list(names) if len(entries) == len(names) else [str(i) for i in range(len(entries))]
    if len(given) < len(entries) or len(set(given)) < len(given):
        raise InputError(f"{path}: names of cameras are missing or stand twice ({', '.join(given)}); {REMEDY}.")
    if missing := [n for n in names if n not in given]:
        raise InputError(
            f"{path} holds {len(given)} cameras ({', '.join(given)}), the recording {len(names)} ({', '.join(names)}): there is no "
            f"calibration of '{missing[0]}'. Name the videos after the cameras; or list the cameras in datasets.<name>.cameras."
        )
    left = [g for g in given if g not in names]
    if left and every_camera:
        raise InputError(
            f"{path} holds {len(given)} cameras, the recording {len(names)}: there is no video of '{left[0]}'. Add it, or say "
            f"which cameras to use: datasets.<name>.cameras: [{', '.join(names)}]."
        )
    return [entries[given.index(n)] for n in names]


def _camera(entry: Entry, path: Path, name: str, size: tuple[int, int]) -> LensCamera:
    """One camera, checked."""
    where = f"{path}, camera {name}"
    with named_errors(path, "a calibration", REMEDY):
        for key in ("rotation", "translation", "matrix"):
            if key not in entry:
                raise ValueError(f"camera {name} has no {key}")
        rotation, translation, k = (_numbers(entry[key]) for key in ("rotation", "translation", "matrix"))
        bent = _numbers(entry.get("distortion", ()), most=14).ravel()
        stated = _stated_size(entry)
    if rotation.size == 3:
        rotation = cv2.Rodrigues(rotation.ravel())[0]
    if rotation.shape != (3, 3) or translation.size != 3 or k.shape != (3, 3):
        raise InputError(f"{where}: R and K must be 3 x 3 and T must have 3 numbers.")
    if not all(np.isfinite(m).all() for m in (rotation, translation, k, bent)) or min(k[0, 0], k[1, 1]) <= 0:
        raise CameraError(f"{where}: R, T, K and distortion must be finite, and the focal lengths in K positive.")
    if not np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-3) or np.linalg.det(rotation) < 0.99:
        determinant = np.linalg.det(rotation)
        raise CameraError(f"{where}: R is not a rotation (det {determinant:+.3f}); write world-to-camera, OpenCV axes.")
    if abs(k[0, 1]) > 1e-3 * k[0, 0] or not np.allclose(k[2], [0, 0, 1]):
        raise CameraError(f"{where}: K has a skew or a last row that is not 0 0 1; calibrate without skew.")
    if stated is not None and stated != size:
        raise InputError(
            f"{where}: calibrated at {stated[0]} x {stated[1]} pixels, its video has {size[0]} x {size[1]}. Scale K to the video, "
            "or use the video that was calibrated."
        )
    w2c = np.eye(4)
    w2c[:3, :3], w2c[:3, 3] = rotation, translation.ravel()
    shift = 0.5 if path.suffix.lower() in FROM_PIXEL_CENTRES else 0.0
    camera = Camera(*size, float(k[0, 0]), float(k[1, 1]), float(k[0, 2]) + shift, float(k[1, 2]) + shift, w2c)
    return LensCamera(name, camera, _lens(entry, bent, where))


def _stated_size(entry: Entry) -> tuple[int, int] | None:
    """Width and height that the calibration names."""
    values = entry.get("size") if "size" in entry else [entry[k] for k in ("width", "height") if k in entry]
    numbers = _numbers(values).ravel()
    if numbers.size == 0:
        return None
    if numbers.size != 2:
        raise ValueError("size must be width and height")
    return int(numbers[0]), int(numbers[1])


def _lens(entry: Entry, coefficients: Float[np.ndarray, " n"], where: str) -> tuple[float, ...]:
    """Distortion that `LensCamera` knows.

    Raises:
        CameraError: fisheye, or a model with other coefficients.
    """
    if entry.get("fisheye") not in (None, False, 0, "false"):
        raise CameraError(
            f"{where}: a fisheye lens; only OpenCV's radial and tangential model is known. Undistort the videos first."
        )
    if not coefficients.any():
        return ()
    if coefficients.size not in KNOWN_LENSES:
        raise CameraError(
            f"{where}: {coefficients.size} distortion coefficients, and not all are 0; 4, 5 or 8 are known (k1 k2 p1 p2 [k3 [k4 k5 "
            "k6]]). Calibrate with one of these models, or undistort the videos first."
        )
    if np.abs(coefficients).max() > LARGEST_COEFFICIENT:
        raise CameraError(f"{where}: a distortion coefficient of {np.abs(coefficients).max():.3g} is no lens; calibrate again.")
    return tuple(float(c) for c in coefficients)


def _refuse_copies(path: Path, cameras: Sequence[LensCamera]) -> None:
    """A calibration in which one camera repeats another exists: it looks whole, and every angle of the copy is wrong."""
    places = np.array([c.camera.position for c in cameras])
    typical = np.median(np.linalg.norm(places - places.mean(0), axis=1))
    for i, a in enumerate(cameras):
        for b in cameras[:i]:
            turn = (np.trace(a.camera.w2c[:3, :3] @ b.camera.w2c[:3, :3].T) - 1) / 2
            near = np.linalg.norm(a.camera.position - b.camera.position) <= SAME_PLACE * typical
            if near and np.degrees(np.arccos(np.clip(turn, -1, 1))) < SAME_ANGLE:
                raise CameraError(
                    f"{path}: camera {a.name} stands where camera {b.name} stands and looks the same way: one is a copy of the "
                    "other. Calibrate it, or leave it out (datasets.<name>.cameras)."
                )


def upright(cameras: Sequence[LensCamera], up: Up) -> list[LensCamera]:
    """The cameras in a world whose Z axis points up.

    Args:
        cameras: in the calibration's world.
        up: an axis of that world, a vector, a camera that stands level, or three points of the floor seen anticlockwise from above.

    Raises:
        InputError: no direction can be had from it.
    """
    direction = _direction(cameras, up)
    length = np.linalg.norm(direction)
    if not np.isfinite(length) or length < 1e-9:
        raise InputError("datasets.<name>.up gives no direction: the vector is 0, or the three floor points lie on a line.")
    direction = direction / length
    axis, z = np.cross(direction, [0, 0, 1.0]), direction[2]
    if np.linalg.norm(axis) < 1e-9:
        world = np.eye(3) if z > 0 else np.diag([1.0, -1, -1])
    else:
        world = cv2.Rodrigues(axis / np.linalg.norm(axis) * np.arccos(np.clip(z, -1, 1)))[0]
    return [c.turned(world) for c in cameras]


def _direction(cameras: Sequence[LensCamera], up: Up) -> Float[np.ndarray, "3"]:
    if isinstance(up, str):
        return np.array(AXES[up], float)
    if isinstance(up, LevelCamera):
        level = [c for c in cameras if c.name == up.level_camera]
        if not level:
            raise InputError(
                f"datasets.<name>.up: there is no camera '{up.level_camera}', only {', '.join(c.name for c in cameras)}."
            )
        return -level[0].camera.w2c[1, :3]
    if isinstance(up, Floor):
        a, b, c = np.array(up.floor, float)
        return np.cross(b - a, c - a)
    return np.array(up, float)


def level_direction(cameras: Sequence[LensCamera]) -> Float[np.ndarray, "3"]:
    """The direction in which cameras that were mounted without roll agree that up is: across all their horizontal axes."""
    across = np.array([c.camera.w2c[0, :3] for c in cameras])
    direction = np.linalg.svd(across)[2][-1]
    return direction * np.sign(direction[2] or 1)
