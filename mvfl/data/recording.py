"""Data of kind `markerless`: synchronised videos of calibrated cameras -> sample folders.

Two passes. The first reads the masks only: where is the animal in each frame, which frames are fit to use, and which one
factor brings the cameras to the models' mean distance. The second resamples every picture through the virtual cameras.
A frame that is not fit is left out as a whole and listed with its reason; nothing is put in its place.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mvfl.config.datasets import MarkerlessDataset
from mvfl.data.calibration import read_calibration
from mvfl.data.folder import block_split
from mvfl.data.silhouettes import silhouette_overlap, touches_border, triangulated_centre
from mvfl.data.videos import common_size, frame_count, read_frames
from mvfl.geometry.cameras import ORBIT_DISTANCE, Camera, orbit_camera
from mvfl.geometry.rig import Rig
from mvfl.geometry.virtual import looking_at_origin, moved, turned_picture
from mvfl.records.manifest import Manifest
from mvfl.records.samples import write_sample
from mvfl.runtime.files import InputError, write_json, written_aside
from mvfl.runtime.progress import Bar, say
from mvfl.runtime.provenance import write_provenance

MASK_LEVEL = 127  # of 255
LEAST_UP = 0.3


@dataclass(frozen=True)
class Located:
    """One usable frame.

    Attributes:
        frame: number in the videos.
        centre: the animal's centre in the calibration's units [3].
        error: mean reprojection error of the centre, in pixels of the virtual picture.
    """

    frame: int
    centre: np.ndarray
    error: float


def prepare_recording(name: str, settings: MarkerlessDataset, out: Path, workers: int) -> Manifest:
    """Make sample folders of a recording.

    Args:
        name: of the data set.
        settings: files and limits.
        out: gets `samples/`, `manifest.json`, `recording.json` (what was left out, and why) and `provenance.json`.
        workers: threads.

    Raises:
        InputError: a file is missing, videos differ in size or length, or too many frames are unfit.
        CameraError: an impossible calibration.
    """
    views = settings.cameras
    masks, videos = settings.masks_and_videos()
    width, height = common_size([*videos, *masks])
    cameras = read_calibration(settings.calibration, width, height)
    if len(cameras) != views:
        raise InputError(f"{settings.calibration} holds {len(cameras)} cameras, datasets.{name}.cameras says {views}.")
    located, dropped = locate(settings, masks, cameras, frame_count([*masks, *videos]))
    _refuse_if_too_many(settings, dropped, len(located))
    _refuse_a_world_that_is_not_z_up(settings, cameras, located)
    block_split([str(f.frame) for f in located], settings.val_fraction, settings.gap)  # too few are found before the long pass
    distances = [np.linalg.norm(c.position - f.centre) for f in located for c in cameras]
    scale = ORBIT_DISTANCE / float(np.mean(distances))
    kept, placed = _turn_samples(name, settings, cameras, located, dropped, scale, out, workers)
    rig = mean_rig(name, placed, settings.image_size)
    spread = max(rig.disagreement(frame).angle for frame in placed)
    report = {
        "scale": scale, "frames": len(kept), "dropped": {str(k): v for k, v in sorted(dropped.items())},
        "mean_reprojection_px": float(np.mean([f.error for f in located])), "largest_angle_to_rig_deg": spread,
    }  # fmt: skip
    write_json(out / "recording.json", report)
    say(
        f"{len(kept)} samples, {len(dropped)} frames left out; centre reprojected within "
        f"{report['mean_reprojection_px']:.2f} px; the animal's way through the arena turns cameras by up to {spread:.1f} degrees."
    )
    train, val = block_split(kept, settings.val_fraction, settings.gap)
    inputs: dict[str, Path | str] = {"calibration": settings.calibration}
    inputs |= {f"video_{c}": v for c, v in enumerate(videos)} | {f"mask_{c}": m for c, m in enumerate(masks)}
    write_provenance(out, "data", settings.model_dump(mode="json"), inputs, rig.hash)
    return Manifest.write(out / "manifest.json", name, out / "samples", rig, settings.image_size, train, val)


def _turn_samples(
    name: str, settings: MarkerlessDataset, cameras: list[Camera], located: list[Located], dropped: dict[int, str], scale: float,
    out: Path, workers: int,
) -> tuple[list[str], list[list[Camera]]]:  # fmt: skip
    """Second pass: each picture through its virtual camera; names and cameras of the samples. Adds to `dropped`."""
    masks, videos = settings.masks_and_videos()
    kept: list[str] = []
    placed: list[list[Camera]] = []
    with written_aside(out / "samples") as folder, ThreadPoolExecutor(workers) as pool:
        folder.mkdir()
        wanted = {f.frame: f for f in located}
        with Bar(f"samples of {name}", len(wanted)) as bar:
            pairs = zip(read_frames(videos, set(wanted)), read_frames(masks, set(wanted)), strict=True)
            for done, ((number, pictures), (_, silhouettes)) in enumerate(pairs, 1):
                found = wanted[number]
                real = [moved(c, found.centre, scale) for c in cameras]
                virtual = [looking_at_origin(c, settings.image_size) for c in real]
                turned = list(pool.map(_turned, pictures, silhouettes, real, virtual))
                if reason := _unfit_when_turned(turned, virtual, settings.min_silhouette_overlap):
                    dropped[number] = reason
                else:
                    kept.append(_write_sample(folder, found, turned, virtual))
                    placed.append(virtual)
                bar.update(done)
        _refuse_if_too_many(settings, dropped, len(kept))  # before the folder gets its name
    return kept, placed


def locate(
    settings: MarkerlessDataset, masks: list[Path], cameras: list[Camera], count: int
) -> tuple[list[Located], dict[int, str]]:
    """First pass over `count` frames: the animal's centre in every selected one, and those left out with their reasons."""
    found: list[Located] = []
    dropped: dict[int, str] = {}
    selected = [n for n in range(settings.first_frame, count, settings.every) if n not in set(settings.exclude)]
    if not selected:
        raise InputError(
            f"{masks[0]} has {count} frames; first_frame {settings.first_frame} and every {settings.every} leave none."
        )
    # Errors are compared in pixels of the virtual picture, whatever the recording's resolution.
    to_virtual = [orbit_camera(0, 0, size=settings.image_size).fx / c.fx for c in cameras]
    with Bar("locate the animal", len(selected)) as bar:
        for done, (number, pictures) in enumerate(read_frames(masks, set(selected)), 1):
            silhouettes = [p.mean(-1) > MASK_LEVEL for p in pictures]
            bar.update(done)
            if reason := _unfit(silhouettes):
                dropped[number] = reason
                continue
            centre, errors = triangulated_centre(silhouettes, cameras)
            error = float(np.mean(errors * to_virtual))
            if any(c.project(centre[None])[0, 2] <= 0 for c in cameras):
                dropped[number] = "the animal would lie behind a camera"
            elif error > settings.max_reprojection_px:
                dropped[number] = f"the centre is reprojected with {error:.1f} px (allowed {settings.max_reprojection_px})"
            else:
                found.append(Located(number, centre, error))
    return found, dropped


def _refuse_a_world_that_is_not_z_up(settings: MarkerlessDataset, cameras: list[Camera], located: list[Located]) -> None:
    """Every later check would pass, since all would be turned alike: animals on their backs, or lying on their sides."""
    up = float(np.mean([-c.w2c[1, 2] for c in cameras]))  # how far "up" in the pictures is +Z in the world
    height = np.mean([c.position[2] for c in cameras]) - np.mean([f.centre[2] for f in located])
    hanging = up < -LEAST_UP and height > 0  # cameras mounted upside down look down on the animal all the same
    if up < LEAST_UP and not hanging:
        raise InputError(
            f"In {settings.calibration} the world's Z axis does not point up: in the pictures, up is {up:+.2f} of it (about +0.9 "
            "is usual). A chessboard on the floor gives Z down, other programs use Y up. Turn the world: multiply R of every "
            "camera from the right by the transposed rotation, for Z down diag(1, -1, -1)."
        )


def mean_rig(name: str, placed: list[list[Camera]], size: int) -> Rig:
    """What the slots mean: each camera at its mean place about the animal, looking at it."""
    cameras = []
    for view in zip(*placed, strict=True):
        positions = np.array([c.position for c in view])
        direction = positions.mean(0) / np.linalg.norm(positions.mean(0))
        distance = float(np.linalg.norm(positions, axis=1).mean())
        azimuth, elevation = np.degrees(np.arctan2(direction[1], direction[0])), np.degrees(np.arcsin(direction[2]))
        cameras.append(orbit_camera(float(azimuth), float(elevation), distance, size))
    return Rig(name, cameras)


def _write_sample(folder: Path, found: Located, pictures: list[np.ndarray], cameras: list[Camera]) -> str:
    name = f"sample_{found.frame:06d}"
    info = {"frame": found.frame, "centre": found.centre.tolist(), "reprojection_px": found.error}
    write_sample(folder / name, cameras, [Image.fromarray(p) for p in pictures], **info)
    return name


def _turned(picture: np.ndarray, silhouette: np.ndarray, real: Camera, virtual: Camera) -> np.ndarray:
    alpha = (silhouette.mean(-1, keepdims=True) > MASK_LEVEL) * 255.0
    rgba: Tensor = torch.from_numpy(np.concatenate([picture, alpha], -1)).permute(2, 0, 1).float() / 255
    turned = turned_picture(rgba, real, virtual)
    return (turned * 255).round().byte().permute(1, 2, 0).numpy()


def _unfit(silhouettes: list[np.ndarray]) -> str | None:
    for view, mask in enumerate(silhouettes):
        if not mask.any():
            return f"the mask of camera {view} is empty"
        if touches_border(mask):
            return f"the mask of camera {view} touches the frame's border"
    return None


def _unfit_when_turned(pictures: list[np.ndarray], cameras: list[Camera], min_overlap: float) -> str | None:
    for view, picture in enumerate(pictures):
        mask = picture[..., 3] > MASK_LEVEL
        if not mask.any() or touches_border(mask):
            return f"the animal is cut off in the prepared picture of camera {view}"
    alphas = torch.from_numpy(np.stack([p[..., 3] for p in pictures]))[:, None].float() / 255
    overlap = silhouette_overlap(alphas, cameras)
    if overlap < min_overlap:
        return f"the silhouettes do not fit one body (overlap {overlap:.2f}, at least {min_overlap}): are cameras mixed up?"
    return None


def _refuse_if_too_many(settings: MarkerlessDataset, dropped: dict[int, str], kept: int) -> None:
    if kept == 0 or len(dropped) > settings.max_dropped * (kept + len(dropped)):
        raise InputError(
            f"{len(dropped)} of {kept + len(dropped)} frames of {settings.videos} are unfit (allowed {settings.max_dropped:.0%}): "
            f"{_reasons(dropped)}. When all frames fail alike, calibration and videos do not belong together; otherwise look at "
            "the masks."
        )


def _reasons(dropped: dict[int, str]) -> str:
    first = [f"frame {number}: {reason}" for number, reason in sorted(dropped.items())[:3]]
    return "; ".join(first) + (" ..." if len(dropped) > 3 else "")
