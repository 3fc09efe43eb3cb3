"""Second pass over a recording: every picture as a virtual camera in the same place would have taken it, zoomed to the animal."""

from __future__ import annotations

import os
import shutil
from collections import deque
from collections.abc import Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from mvfl.config.datasets import MarkerlessDataset
from mvfl.data.locating import Located
from mvfl.data.silhouettes import Silhouette, touches_border
from mvfl.data.videos import ahead, read_frames
from mvfl.geometry.cameras import FOCAL_512, ORBIT_DISTANCE, Camera
from mvfl.geometry.lens import LensCamera
from mvfl.geometry.virtual import looking_at_origin, moved, turned_picture
from mvfl.records.samples import write_sample
from mvfl.runtime.files import InputError, written_aside
from mvfl.runtime.progress import Bar, say

MARGIN = 0.04  # of the picture's side, free on each side
EDGE = 2  # recorded pixels around the animal that interpolation may ask for


@dataclass(frozen=True)
class Framing:
    """How recorded pictures become the models'.

    Attributes:
        scale: world units per unit of the calibration: brings the cameras to the models' mean distance.
        focals: focal length of each virtual camera in pixels at 512 px.
        size: pixels per side.
    """

    scale: float
    focals: list[float]
    size: int

    def virtual(self, camera: LensCamera, view: int, centre: np.ndarray) -> tuple[LensCamera, Camera]:
        """The recorded camera in the animal's world, and the virtual one in the same place."""
        real = moved(camera.camera, centre, self.scale)
        return replace(camera, camera=real), looking_at_origin(real, self.size, self.focals[view])


def choose_framing(settings: MarkerlessDataset, cameras: Sequence[LensCamera], located: Sequence[Located]) -> Framing:
    """One scale for the recording and one zoom per camera: as large as the animal can be without leaving any frame's picture.

    Args:
        settings: whether and how to zoom.
        cameras: Z up.
        located: all usable frames.
    """
    distances = [np.linalg.norm(c.camera.position - f.centre) for f in located for c in cameras]
    widest = np.array([f.extents for f in located]).max(0)
    focals = [FOCAL_512] * len(cameras)
    if settings.zoom != "none":
        focals = [float((0.5 - MARGIN) * 512 / w) for w in widest]
    if settings.zoom == "one":
        focals = [min(focals)] * len(cameras)
    return Framing(ORBIT_DISTANCE / float(np.mean(distances)), focals, settings.image_size)


def turn_samples(
    settings: MarkerlessDataset, cameras: Sequence[LensCamera], videos: Sequence[Path], located: Sequence[Located],
    framing: Framing, folder: Path, workers: int,
) -> None:  # fmt: skip
    """Write the sample of every located frame into `folder`; those that are there already stay.

    Raises:
        InputError: a video ends early, or two cameras show the same picture.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = {f.frame: f for f in located if not (folder / sample_name(f.frame)).is_dir()}
    if len(missing) < len(located):
        say(f"{len(located) - len(missing)} of {len(located)} samples are there already.")
    if not missing:
        return
    streams = [ahead(read_frames(video, set(missing))) for video in videos]
    title = f"samples of {settings.image_size} px"
    with Bar(title, len(located), start=len(located) - len(missing)) as bar, ThreadPoolExecutor(workers) as pool:
        running: deque[Future[None]] = deque()
        for row in zip(*streams, strict=True):
            found, pictures = missing[row[0][0]], [picture for _, picture in row]
            _refuse_equal_pictures(pictures, found.frame, cameras)
            running.append(pool.submit(_write, settings, folder, found, pictures, cameras, framing))
            if len(running) > workers:  # a bounded number of frames in memory
                running.popleft().result()
                bar.update(bar.done + 1)
        for written in running:
            written.result()
            bar.update(bar.done + 1)


def sample_name(frame: int) -> str:
    """Folder of a frame."""
    return f"sample_{frame:06d}"


def put_in_place(made: Path, samples: Path, wanted: Collection[str]) -> None:
    """The finished folder gets its name; samples of frames that other limits left out go.

    Args:
        made: where samples were written.
        samples: the name that they get; what has it is replaced at the end, whole.
        wanted: names of the samples that are used.
    """
    for folder in made.iterdir():
        if folder.name not in wanted:
            shutil.rmtree(folder, ignore_errors=True)
    new, old = samples.with_name(".samples.new"), samples.with_name(".samples.old")
    for rest in (new, old):
        shutil.rmtree(rest, ignore_errors=True)
    shutil.copytree(made, new, copy_function=_linked)
    if samples.exists():
        os.replace(samples, old)
    os.replace(new, samples)
    shutil.rmtree(old, ignore_errors=True)


def _linked(source: str, target: str) -> None:
    """A second name of the same file; a copy on disks that know no such thing."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _refuse_equal_pictures(pictures: Sequence[np.ndarray], frame: int, cameras: Sequence[LensCamera]) -> None:
    seen: dict[bytes, str] = {}
    for picture, camera in zip(pictures, cameras, strict=True):
        mark = picture[::16, ::16].tobytes()
        if mark in seen:
            raise InputError(
                f"Frame {frame}: cameras {seen[mark]} and {camera.name} show the same picture; name each camera's own video."
            )
        seen[mark] = camera.name


def _write(
    settings: MarkerlessDataset, folder: Path, found: Located, pictures: Sequence[np.ndarray], cameras: Sequence[LensCamera],
    framing: Framing,
) -> None:  # fmt: skip
    pairs = [framing.virtual(camera, view, found.centre) for view, camera in enumerate(cameras)]
    virtual = [v for _, v in pairs]
    turned = [turned_part(*parts) for parts in zip(pictures, found.silhouettes, [r for r, _ in pairs], virtual, strict=True)]
    if not settings.may_leave:
        for picture, camera in zip(turned, cameras, strict=True):
            if not picture[..., 3].any() or touches_border(picture[..., 3] > 127):
                raise InputError(f"Frame {found.frame}: the animal is cut off in the prepared picture of camera {camera.name}.")
    info = {
        "frame": found.frame, "centre": found.centre.tolist(), "reprojection_px": found.error, "overlaps": found.overlaps,
        "millimetres": settings.unit_mm / framing.scale,
    }  # fmt: skip
    with written_aside(folder / sample_name(found.frame)) as target:
        write_sample(target, virtual, [Image.fromarray(p) for p in turned], sample_name(found.frame), **info)


def turned_part(picture: np.ndarray, silhouette: Silhouette, real: LensCamera, virtual: Camera) -> np.ndarray:
    """A picture through its virtual camera; only the part that holds the animal is touched."""
    (x, y), (height, width) = silhouette.corner, silhouette.bits.shape
    left, top = max(0, x - EDGE), max(0, y - EDGE)
    part = picture[top : y + height + EDGE, left : x + width + EDGE]
    mask = np.zeros(part.shape[:2], bool)
    mask[y - top : y - top + height, x - left : x - left + width] = silhouette.bits
    return turned_picture(part, mask, real, virtual, (left, top))
