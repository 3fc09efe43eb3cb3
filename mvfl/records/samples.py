"""Sample folders: `sample_*/images/cam_XXX.png` with `opencv_cameras.json`, one entry of `frames` per view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from mvfl.geometry.cameras import Camera
from mvfl.runtime.files import InputError, write_json
from mvfl.runtime.reading import read_table

CAMERAS = "opencv_cameras.json"
COMPRESSION = 2  # of PNG; the usual 6 takes three times as long and saves a tenth


def short(name: str) -> str:
    """A sample's name as labels on pictures show it."""
    return name.removeprefix("sample_")


@dataclass(frozen=True)
class Sample:
    """One time point seen by all cameras.

    Attributes:
        folder: the sample folder.
        files: image file per view.
        cameras: camera per view, as stored.
        info: the rest of `opencv_cameras.json`.
    """

    folder: Path
    files: list[Path]
    cameras: list[Camera]
    info: dict[str, Any]

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.folder.name


def read_sample(folder: Path, views: int) -> Sample:
    """Read the cameras of a sample folder and check that its pictures are there.

    Args:
        folder: the sample folder.
        views: the smallest number of views expected; further ones are held-out targets.

    Raises:
        InputError: a file is missing, the number of views is wrong, or the JSON is broken.
        CameraError: a camera is impossible.
    """
    path = folder / CAMERAS
    info = read_table(path, "every sample folder needs its camera file: write it again, or remove the sample")
    frames = info.pop("frames", None)
    if not isinstance(frames, list) or len(frames) < views:
        found = len(frames) if isinstance(frames, list) else "no"
        raise InputError(
            f"{path} holds {found} frames, expected {views}: index = view. A dropped view shifts all later ones; "
            "remove the whole sample instead."
        )
    cameras = [Camera.from_frame(frame, f"{path}, view {i}") for i, frame in enumerate(frames)]
    files = [folder / str(frame.get("file_path", f"images/cam_{i:03d}.png")) for i, frame in enumerate(frames)]
    for file in files:
        if not file.is_relative_to(folder):
            raise InputError(f"{path} names {file}; name pictures relative to the sample's folder, as images/cam_000.png.")
        if not file.is_file():
            raise InputError(f"{file} does not exist; restore the picture or remove the sample {folder.name}.")
    return Sample(folder, files, cameras, info)


def write_sample(
    folder: Path, cameras: Sequence[Camera], pictures: Sequence[Image.Image], name: str | None = None, **info: Any
) -> None:
    """Write a sample: the one place that knows its layout.

    Args:
        folder: of the sample; may be a temporary one.
        cameras: one per view, index = view, at the size of the pictures.
        pictures: one per view.
        name: of the sample; default: the folder's.
        info: further entries of the camera file.
    """
    (folder / "images").mkdir(parents=True)
    frames = [camera.to_frame(view) for view, camera in enumerate(cameras)]
    for frame, picture in zip(frames, pictures, strict=True):
        picture.save(folder / frame["file_path"], compress_level=COMPRESSION)
    write_json(folder / CAMERAS, {"id": name or folder.name, **info, "frames": frames})
