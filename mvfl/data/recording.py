"""Data of kind `markerless`: synchronised videos of calibrated cameras -> sample folders.

Two passes. The first (`locating`) reads the masks: where is the animal in each frame, and which frames are fit to use. Then all
frames together are asked whether pictures and cameras belong together (`evidence`, `alignment`). The second (`resampling`) turns
every picture through the virtual cameras. A frame that is not fit is left out as a whole and listed with its reason; nothing is
put in its place. Both passes go on where an earlier run was stopped.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mvfl.config.datasets import MarkerlessDataset
from mvfl.data.alignment import Misfit, camera_misfits
from mvfl.data.calibration import read_calibration, upright
from mvfl.data.evidence import LEAST_AREA, OrderFinding, culprit, judge_order
from mvfl.data.folder import Blocks, block_split
from mvfl.data.locating import Located, locate, moment
from mvfl.data.mask_recording import make_masks
from mvfl.data.masks import MaskSource
from mvfl.data.outlines import doubted
from mvfl.data.plausible import judge_unit, judge_up
from mvfl.data.resampling import Framing, choose_framing, put_in_place, sample_name, turn_samples
from mvfl.data.videos import common_count, video_size
from mvfl.geometry.cameras import Camera, orbit_camera
from mvfl.geometry.lens import LensCamera
from mvfl.geometry.rig import Rig
from mvfl.records.manifest import Manifest, evenly
from mvfl.records.recording import CameraNote, FrameNote, RecordingReport
from mvfl.runtime.files import InputError, digest, write_json
from mvfl.runtime.fingerprint import code_digest
from mvfl.runtime.lock import only_writer
from mvfl.runtime.progress import say
from mvfl.runtime.provenance import write_provenance
from mvfl.runtime.reading import read_table

SMALL_ANIMAL = 1000  # recorded pixels; fewer are drawn larger than they were recorded
LOOKED_AT = 2000  # frames from which cameras' errors are fitted
NO_NAME = "<name>"  # of a recording that no configuration holds


@dataclass(frozen=True)
class Recording:
    """Files of a recording, opened and compared.

    Attributes:
        cameras: Z up, in the calibration's units.
        videos: one per camera.
        masks: one per camera.
    """

    cameras: list[LensCamera]
    videos: list[Path]
    masks: list[MaskSource]

    @staticmethod
    def open(name: str, settings: MarkerlessDataset, made: Path, workers: int = 2) -> Recording:
        """Find and read what the settings name.

        Args:
            name: of the data set.
            settings: files and frames.
            made: folder of masks that are made, where none are named.
            workers: threads that make them.

        Raises:
            InputError: a file is missing, no frame is selected, or files differ in length or size.
            CameraError: an impossible calibration.
        """
        names = settings.camera_names()
        if len(names) < 2:
            missing = "" if settings.folder.is_dir() else f" (there is no folder {settings.folder})"
            remedy = "Name" if name == NO_NAME else f"Set datasets.{name}.folder, and"
            raise InputError(
                f"{len(names)} videos fit {settings.folder / settings.videos}{missing}; at least two cameras are needed. {remedy} "
                "videos with {camera} in place of the cameras' names."
            )
        videos = settings.files_of("videos")
        sizes = [video_size(video) for video in videos]
        cameras = read_calibration(
            settings.folder / settings.calibration, names, sizes, every_camera=not isinstance(settings.cameras, list)
        )
        count = common_count(videos)
        if not settings.frames(count):
            raise InputError(
                f"{settings.videos} has {count} frames; first_frame {settings.first_frame} and every {settings.every} leave none."
            )
        masks = settings.files_of("masks")
        if not masks:
            masks = make_masks(cameras, videos, settings.frames(count), made, settings.sam2, workers)
        sources = [MaskSource(path, count) for path in masks]
        for source, video, size in zip(sources, videos, sizes, strict=True):
            if source.size != size:
                raise InputError(
                    f"{source.path} is {source.size[0]} x {source.size[1]} pixels, {video} {size[0]} x {size[1]}; they must agree."
                )
        return Recording(upright(cameras, settings.up), videos, sources)

    def files(self, settings: MarkerlessDataset) -> dict[str, Path]:
        """All files by their part."""
        out = {f"calibration_{i}" if i else "calibration": file for i, file in enumerate(settings.calibrations())}
        out |= {f"video_{c.name}": v for c, v in zip(self.cameras, self.videos, strict=True)}
        return out | {f"mask_{c.name}": m.path for c, m in zip(self.cameras, self.masks, strict=True)}


def prepare_recording(name: str, settings: MarkerlessDataset, out: Path, workers: int) -> Manifest:
    """Make sample folders of a recording.

    Args:
        name: of the data set.
        settings: files and limits.
        out: gets `samples/`, `manifest.json`, `recording.json` (cameras, frames, what was left out and why) and `provenance.json`.
        workers: threads.

    Raises:
        InputError: a file is missing, files differ in length or size, pictures and cameras do not belong together, or too many
            frames are unfit.
        CameraError: an impossible calibration.
    """
    with only_writer(out / "state"):
        return _prepared(name, settings, out, workers)


def _prepared(name: str, settings: MarkerlessDataset, out: Path, workers: int) -> Manifest:
    recording = Recording.open(name, settings, out / "masks" / masks_mark(settings), workers)
    state = out / "state" / _mark(settings, recording)
    for older in (out / "state").glob("*/"):
        if older != state:
            shutil.rmtree(older, ignore_errors=True)  # of other settings or files
    located, dropped = locate(settings, recording.masks, recording.cameras, state / "frames.jsonl")
    _refuse_if_too_many(settings, recording.cameras, dropped, located)
    judge_up(settings, recording.cameras, located)
    judge_unit(settings, recording.cameras, located)
    _blocks(settings, located)  # too few are found before the long pass
    order, misfits = judge(settings, recording.cameras, located)
    framing = choose_framing(settings, recording.cameras, located)
    turn_samples(settings, recording.cameras, recording.videos, located, framing, state / "samples", workers)
    put_in_place(state / "samples", out / "samples", {sample_name(f.frame) for f in located})
    rig = mean_rig(name, recording.cameras, located, framing)
    report = _report(name, settings, recording.cameras, located, dropped, framing, rig, order, misfits)
    report = doubted(report, recording.videos, located)
    report.write(out / "recording.json")
    for line in report.lines():
        say(line)
    train, val, test = _blocks(settings, located)
    inputs: dict[str, Path | str] = {**recording.files(settings)}
    write_provenance(out, "data", settings.model_dump(mode="json"), inputs, rig.hash)
    return Manifest.write(
        out / "manifest.json", name, out / "samples", rig, settings.image_size, train, val, settings.unit_mm / framing.scale,
        test=test,
    )  # fmt: skip


def make_masks_of(settings: MarkerlessDataset, out: Path, workers: int) -> None:
    """Find the animal in a recording's videos and write its masks; those of an interrupted run are kept.

    Args:
        settings: calibration, videos, every how many frames, how outlines are found.
        out: gets a folder of masks per camera.
        workers: threads.

    Raises:
        InputError: masks of other videos, another calibration or method lie there.
    """
    note, mark = out / "made_from.json", {"mark": masks_mark(settings)}
    if any(out.glob("*/*.png")) and (not note.is_file() or read_table(note, f"delete {out}") != mark):
        raise InputError(
            f"{out} holds masks that were made of other videos, with another calibration or in another way: name another --out, or "
            "delete it."
        )
    write_json(note, mark)
    Recording.open(NO_NAME, settings, out, workers)


def _blocks(settings: MarkerlessDataset, located: list[Located]) -> Blocks:
    names = [sample_name(f.frame) for f in located]
    return block_split(names, settings.val_fraction, settings.gap, settings.test_fraction)


def masks_mark(settings: MarkerlessDataset) -> str:
    """Of all that decides masks that are made."""
    files = [*settings.calibrations(), *settings.files_of("videos"), *([settings.sam2] if settings.sam2 else [])]
    known = [[str(f), f.stat().st_size, f.stat().st_mtime_ns] for f in files if f.exists()]
    return digest([known, code_digest("mvfl.data.mask_recording")])


def _mark(settings: MarkerlessDataset, recording: Recording) -> str:
    """Of all that decides the samples; half-done work of anything else is of no use."""
    chosen = {k: v for k, v in settings.decisive().items() if k not in ("val_fraction", "test_fraction", "gap", "max_dropped")}
    files: list[list[str | int]] = []
    for path in recording.files(settings).values():
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            if file.exists():
                files.append([str(file), file.stat().st_size, file.stat().st_mtime_ns])
    return digest([chosen, files, code_digest("mvfl.data.recording")])


def judge(
    settings: MarkerlessDataset, cameras: Sequence[LensCamera], located: Sequence[Located]
) -> tuple[OrderFinding | None, list[Misfit]]:
    """What all frames say together about order and errors of the cameras.

    Returns:
        The finding about the order, None where the animal is too small to tell; and each camera's misfit.

    Raises:
        InputError: another order fits clearly better.
    """
    areas = np.array([[s.area for s in f.silhouettes] for f in evenly(list(located), 50)])
    order = None
    if areas.min(1).mean() >= LEAST_AREA:
        order = judge_order([moment(f, cameras) for f in evenly(list(located), 50)], settings.videos)
    frames = evenly(list(located), LOOKED_AT)
    pixels = np.array(
        [
            [c.undistorted((s.centroid - lean)[None])[0] for s, c, lean in zip(f.silhouettes, cameras, f.leans, strict=True)]
            for f in frames
        ]
    )
    sizes = np.median(np.sqrt(areas), axis=0)
    return order, camera_misfits(pixels, [c.camera for c in cameras], [f.frame for f in frames], sizes)


def mean_rig(name: str, cameras: Sequence[LensCamera], located: Sequence[Located], framing: Framing) -> Rig:
    """What the slots are called by: each camera at its mean place about the animal, looking at it."""
    out: list[Camera] = []
    for view, camera in enumerate(cameras):
        places = np.array([framing.scale * (camera.camera.position - f.centre) for f in located])
        direction = places.mean(0) / np.linalg.norm(places.mean(0))
        distance = float(np.linalg.norm(places, axis=1).mean())
        azimuth, elevation = np.degrees(np.arctan2(direction[1], direction[0])), np.degrees(np.arcsin(direction[2]))
        out.append(orbit_camera(float(azimuth), float(elevation), distance, framing.size, framing.focals[view]))
    return Rig(name, out)


def _report(
    name: str, settings: MarkerlessDataset, cameras: Sequence[LensCamera], located: Sequence[Located], dropped: dict[int, str],
    framing: Framing, rig: Rig, order: OrderFinding | None, misfits: Sequence[Misfit],
) -> RecordingReport:  # fmt: skip
    """All that a person should know of the recording."""
    notes = []
    suspects = sum(m.kind is not None for m in misfits)
    for view, (camera, mean) in enumerate(zip(cameras, rig.cameras, strict=True)):
        azimuth, elevation, distance = mean.spherical
        fit = misfits[view] if misfits else None
        areas = np.array([f.silhouettes[view].area for f in evenly(list(located), 200)])
        zoom = mean.fx / camera.camera.fx
        notes.append(
            CameraNote(
                name=camera.name, azimuth=azimuth, elevation=elevation, distance=distance / framing.scale,
                lens=list(camera.distortion),
                focal_512=framing.focals[view], zoom=zoom, recorded_pixels=float(np.median(areas)),
                share=float(np.median(areas) * zoom**2 / framing.size**2),
                overlap=float(np.mean([f.overlaps[view] for f in located])),
                residual_px=fit.residual if fit else None, misfit=fit.to_json() if fit else None,
                warning=_warning(camera.name, fit, suspects, float(np.median(areas)), zoom),
            )
        )  # fmt: skip
    frames = [FrameNote(frame=f.frame, centre=f.centre.tolist(), error=f.error, overlaps=f.overlaps) for f in located]
    spread = max(
        rig.disagreement([framing.virtual(c, v, f.centre)[1] for v, c in enumerate(cameras)]).angle
        for f in evenly(list(located), 500)
    )
    return RecordingReport(
        name=name, scale=framing.scale, millimetres=settings.unit_mm / framing.scale, cameras=notes, frames=frames,
        dropped={str(k): v for k, v in sorted(dropped.items())}, mean_reprojection_px=float(np.mean([f.error for f in located])),
        largest_angle_to_rig_deg=spread, overlap=float(np.mean([np.mean(f.overlaps) for f in located])),
        undecided=_undecided(order, misfits),
        may_leave=settings.may_leave,
    )  # fmt: skip


def _undecided(order: OrderFinding | None, misfits: Sequence[Misfit]) -> list[str]:
    """What the recording cannot tell."""
    out = order.undecided if order else ["the cameras are in the right order (the animal is too small)"]
    if not misfits:
        out = [*out, "single cameras are off by a degree, or late (too few frames, or the animal hardly moves)"]
    return out


def _warning(name: str, fit: Misfit | None, suspects: int, pixels: float, zoom: float) -> str | None:
    """What a person should look at in a camera."""
    if fit is not None and fit.kind is not None:
        sure = "" if suspects == 1 else f"one of {suspects} cameras that explain about the same: "
        return f"{sure}{fit.sentence(name)} (explains {fit.explained:.0%} of all misses); calibrate it again or synchronise it."
    if pixels < SMALL_ANIMAL:
        return f"the animal covers only {pixels:.0f} recorded pixels in camera {name}; its picture is enlarged {zoom:.1f} times."
    return None


def _refuse_if_too_many(
    settings: MarkerlessDataset, cameras: Sequence[LensCamera], dropped: dict[int, str], located: Sequence[Located]
) -> None:
    kept = len(located)
    if kept and len(dropped) <= settings.max_dropped * (kept + len(dropped)):
        return
    blame = ""
    if kept and (found := culprit([moment(f, cameras) for f in located])) and found[1] > found[2] + 0.05:
        blame = f" Without camera {found[0]} the others fit best ({found[1]:.2f}): look at it first."
    raise InputError(
        f"{len(dropped)} of {kept + len(dropped)} frames of {settings.videos} are unfit (allowed {settings.max_dropped:.0%}): "
        f"{_reasons(dropped)}. When all frames fail alike, calibration and videos do not belong together; otherwise look at "
        f"the masks.{blame}"
    )


def _reasons(dropped: dict[int, str]) -> str:
    first = [f"frame {number}: {reason}" for number, reason in sorted(dropped.items())[:3]]
    return "; ".join(first) + (" ..." if len(dropped) > 3 else "")
