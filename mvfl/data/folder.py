"""Data of kind `folder`: check existing sample folders and write their manifest."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mvfl.config.datasets import FolderDataset
from mvfl.config.patterns import natural
from mvfl.data.evidence import Moment, judge_late_views, judge_order, odd_moments, twins
from mvfl.data.locating import ANIMAL
from mvfl.data.pictures import MASK_THRESHOLD, read_rgba
from mvfl.data.silhouettes import Silhouette, triangulated_centre
from mvfl.geometry.cameras import ORBIT_DISTANCE
from mvfl.geometry.lens import LensCamera
from mvfl.geometry.rig import Rig, load_rig
from mvfl.records.manifest import Manifest
from mvfl.records.samples import CAMERAS, Sample
from mvfl.runtime.files import InputError
from mvfl.runtime.progress import say, tracked
from mvfl.runtime.provenance import write_provenance


class Blocks(NamedTuple):
    """Samples of each block, in time order."""

    train: list[str]
    val: list[str]
    test: list[str]


def block_split(names: list[str], val_fraction: float, gap: int, test_fraction: float = 0.0) -> Blocks:
    """Split samples in time order into blocks for training, for verdicts and choices, and for reporting, with gaps between.

    Neighbouring frames of one video look alike; a random split would put them on both sides.

    Raises:
        InputError: too few samples.
    """
    val, test = (max(1, round(share * len(names))) if share else 0 for share in (val_fraction, test_fraction))
    train = len(names) - val - gap - (test + gap if test else 0)
    if train < 1:
        raise InputError(
            f"{len(names)} samples are too few for a validation share of {val_fraction}, a test share of {test_fraction} and gaps "
            f"of {gap}; lower them."
        )
    return Blocks(names[:train], names[train + gap : train + gap + val], names[len(names) - test :])


# How far a sample's lenses may be from the rig's, its mean distance (an animal walks), and the rig's from the models' own.
FOCAL, CENTRE, DISTANCE, UNITS = 0.05, 0.05, 0.25, 0.1
LEAST_SIDE = 64  # pixels per side; silhouettes of smaller pictures cannot tell cameras apart


@dataclass(frozen=True)
class _Looked:
    """What one sample's pictures say.

    Attributes:
        moment: its silhouettes and cameras.
        error: reprojection error of the centre, in pixels of 512 of an animal of usual size.
        clipped: pictures in which the animal touches the border.
    """

    moment: Moment
    error: float
    clipped: list[Path]


def check_folder(name: str, settings: FolderDataset, out: Path, workers: int = 2) -> Manifest:
    """Read every camera and every picture once, so that no training meets a broken sample.

    Args:
        name: of the data set.
        settings: where the samples are, and limits.
        out: gets `manifest.json` and `provenance.json`.
        workers: threads.

    Raises:
        InputError: a file is missing, truncated, has no foreground, the number of views is wrong, a sample's cameras
            do not belong to the rig, or the pictures do not belong to the cameras.
        CameraError: an impossible camera.
    """
    if not settings.path.is_dir():
        raise InputError(f"Data folder {settings.path} does not exist; set datasets.{name}.path.")
    names = sorted((p.name for p in settings.path.glob("sample_*") if p.is_dir()), key=natural)
    if not names:
        raise InputError(f"{settings.path} holds no sample_* folders; see docs/data.md for the layout.")
    rig = load_rig(settings.rig, settings.image_size)
    if abs(rig.mean_distance / ORBIT_DISTANCE - 1) > UNITS:
        raise InputError(
            f"The cameras of rig '{settings.rig}' are {rig.mean_distance:.3g} away from the origin on average, the models know "
            f"{ORBIT_DISTANCE}. Multiply all translations, the rig's and the samples', by {ORBIT_DISTANCE / rig.mean_distance:.6g}."
        )
    manifest = Manifest(name, settings.path, rig, settings.image_size, [], [], "")
    with ThreadPoolExecutor(workers) as pool:
        looked = list(tracked(pool.map(lambda n: _look(manifest.sample(n), rig, settings), names), f"check {name}", len(names)))
    _judge(settings, looked)
    train, val, test = block_split(names, settings.val_fraction, settings.gap, settings.test_fraction)
    write_provenance(out, "data", settings.model_dump(mode="json"), {"samples": settings.path}, rig.hash)
    return Manifest.write(out / "manifest.json", name, settings.path.resolve(), rig, settings.image_size, train, val, test=test)


def _look(sample: Sample, rig: Rig, settings: FolderDataset) -> _Looked:
    """One sample's cameras and pictures, held-out views like all others."""
    _check_cameras(sample, rig, settings)
    silhouettes = []
    for file in sample.files:
        mask = read_rgba(file, settings.image_size)[..., 3] > MASK_THRESHOLD * 255
        if not mask.any():
            raise InputError(f"{file} shows no animal: no pixel of its alpha channel is above one half. Mend its mask.")
        silhouettes.append(Silhouette.of(mask))
    if pair := twins(silhouettes):
        a, b = (sample.files[v].name for v in pair)
        raise InputError(
            f"{sample.folder}: {a} and {b} show the same silhouette, which no two cameras do: one is a copy. Restore it."
        )
    size = settings.image_size
    cameras = [LensCamera(f"view {v}", c.resized(size, size)) for v, c in enumerate(sample.cameras)]
    errors = triangulated_centre(silhouettes, cameras)[1]
    error = float(np.mean([e * ANIMAL * 512 / np.sqrt(s.area) for e, s in zip(errors, silhouettes, strict=True)]))
    clipped = [f for f, s in zip(sample.files[: len(rig.cameras)], silhouettes, strict=False) if s.touches_border()]
    return _Looked(Moment(sample.name, silhouettes, cameras), error, clipped)


def _check_cameras(sample: Sample, rig: Rig, settings: FolderDataset) -> None:
    """Refuse cameras that are not the rig's."""
    where, views = sample.folder / CAMERAS, len(rig.cameras)
    if len(sample.cameras) != views + settings.extra_views:
        raise InputError(
            f"{where} holds {len(sample.cameras)} frames, expected {views} of the rig and {settings.extra_views} further ones; "
            "set extra_views in datasets.<name>, or remove the sample."
        )
    own = sample.cameras[:views]
    mixed = [v for v, nearest in enumerate(rig.nearest_views(own)) if nearest != v]
    distance = float(np.mean([np.linalg.norm(c.position) for c in own])) / rig.mean_distance - 1
    d = rig.disagreement(own)
    if mixed or d.focal > FOCAL or d.centre > CENTRE or abs(distance) > DISTANCE:
        order = f"view {mixed[0]} stands where another of the rig's cameras should, " if mixed else ""
        raise InputError(
            f"{where}: cameras differ from rig '{settings.rig}': {order}focal lengths by up to {d.focal:.1%}, principal points by "
            f"{d.centre:.1%} of the width (allowed {FOCAL:.0%} each), the mean distance by {abs(distance):.1%} (allowed "
            f"{DISTANCE:.0%}). Name the rig that these pictures were made with in datasets.<name>.rig; never pair pictures with "
            "other cameras."
        )


def _judge(settings: FolderDataset, looked: list[_Looked]) -> None:
    """Refuse a folder whose silhouettes contradict its cameras, and name what does."""
    views = len(looked[0].moment.cameras) - settings.extra_views
    pictures, clipped = views * len(looked), [file for found in looked for file in found.clipped]
    if len(clipped) > settings.max_clipped * pictures:
        raise InputError(
            f"In {len(clipped)} of {pictures} pictures the animal touches the border (allowed {settings.max_clipped:.0%}), first "
            f"{clipped[0]}: it is cut off, or the picture has no alpha channel. Frame the pictures anew, or set max_clipped."
        )
    moments, error = [found.moment for found in looked], float(np.median([found.error for found in looked]))
    if settings.image_size < LEAST_SIDE:
        overlaps = []
        say(f"Pictures of {settings.image_size} px are too small for silhouettes to tell whether cameras are mixed up.")
    else:
        judge_order(moments, str(settings.path))
        judge_late_views(moments, str(settings.path))
        overlaps = [m.overlap() for m in tracked(moments, "silhouettes", len(moments))]
    overlap = float(np.median(overlaps)) if overlaps else None
    if error > settings.max_reprojection_px or (overlap is not None and overlap < settings.min_silhouette_overlap):
        shared = (
            ""
            if overlap is None
            else f" and the masks overlap one body by {overlap:.2f} (at least {settings.min_silhouette_overlap})"
        )
        raise InputError(
            f"The pictures in {settings.path} do not belong to their cameras: the masks' centres are reprojected with "
            f"{error:.1f} px of 512 (allowed {settings.max_reprojection_px}){shared}, median of {len(looked)} samples. Are views "
            "mixed up, pictures cropped or scaled without their intrinsics, or cameras of another recording?"
        )
    if odd := odd_moments(moments, overlaps):
        raise InputError(f"{settings.path}: {odd} Mend or remove what is named.")
    fit = "" if overlap is None else f", silhouettes fit one body by {overlap:.2f}"
    say(f"Pictures fit their cameras: centre reprojected within {error:.1f} px of 512{fit}; {len(clipped)} of {pictures} cut off.")
