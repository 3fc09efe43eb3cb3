"""What is given to `mvfl reconstruct`: pictures, folders, videos, samples, data sets, or pictures of calibrated cameras."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from mvfl.config.patterns import natural, visible
from mvfl.data.calibrated import Calibration, read_moment
from mvfl.data.mask_making import BACKGROUND_FRAMES, background
from mvfl.data.photos import BY_ALPHA, Cut, cut_out, found_in, read_photo
from mvfl.data.pictures import view_pictures, with_mask
from mvfl.data.videos import frame_count, read_frames
from mvfl.geometry.cameras import Camera
from mvfl.geometry.rig import Rig
from mvfl.gslrm.export import PUBLISHED, Filters
from mvfl.mvdiffusion.conditioning import TELLS_POSES
from mvfl.records.manifest import Manifest, evenly
from mvfl.records.samples import CAMERAS, read_sample
from mvfl.runtime.files import InputError, digest, sha256
from mvfl.runtime.progress import say
from mvfl.runtime.reading import require_file
from mvfl.stages.reconstructor import Reconstructor
from mvfl.stages.user_files import PICTURES

VIDEOS = (".mp4", ".avi", ".mkv", ".mov", ".webm")
Frame = UInt8[np.ndarray, "height width 3"]


@dataclass(frozen=True)
class Choice:
    """How pictures are taken.

    Attributes:
        view: the camera that took them, among the rig's or the sample's; default: the fixed reference, or 0.
        all_views: of samples: all views straight to GS-LRM, nothing is sampled.
        reframe: bring the animal to the size and place that training pictures of its outline have, for pictures of other
            cameras. A picture of the rig needs no reframing: its own frame says where the animal is and how large.
        every: of videos and data sets, use every n-th frame or sample.
        seed: of the noise; default: the experiment's.
        cut: how the animal is cut out of photos and videos.
        elevations: of the camera, degrees: each is tried, and that is kept whose model shows the photographed outline best.
        calibration: of loose pictures: all of them are one moment, seen by these cameras.
        complete: where several views go straight to GS-LRM, draw the directions that none of them shows, too.
        filters: which Gaussians stay.
    """

    view: int | None = None
    all_views: bool = False
    reframe: bool = False
    every: int = 1
    seed: int | None = None
    cut: Cut = BY_ALPHA
    elevations: tuple[float, ...] = ()
    calibration: Calibration | None = None
    complete: bool = False
    filters: Filters = PUBLISHED

    @property
    def straight(self) -> bool:
        """Whether several views of one moment go to GS-LRM as they are."""
        return self.all_views or self.calibration is not None

    def settings(self, mark: str, learned: str) -> dict[str, object]:
        """What decides a model, as JSON gives it back.

        Args:
            mark: of the pixels, masks and cameras.
            learned: of the weights.
        """
        plain = asdict(replace(self, every=1, cut=replace(self.cut, mask=None), calibration=None))
        return json.loads(json.dumps({**plain, "pixels": mark, "learned": learned}, default=str))


PLAIN = Choice()
Given = tuple[str, Callable[[], "Item"]]  # name, and what reads it


@dataclass(frozen=True)
class Item:
    """One thing to reconstruct.

    Attributes:
        name: of its folder.
        mark: changes with its pixels.
        rgba: pictures, straight alpha: the one that is given, or all views of a sample.
        cameras: that took a sample's views; None: the rig's.
        millimetres: in one world unit of the cameras.
    """

    name: str
    mark: str
    rgba: Float[Tensor, "view 4 height width"]
    cameras: list[Camera] | None = None
    millimetres: float | None = None


def require_sense(choice: Choice, reconstructor: Reconstructor, sources: Sequence[Path]) -> None:
    """Whether the choices fit each other, the sources, and what was loaded, before any picture is read.

    Raises:
        InputError: they do not.
    """
    for path in sources:
        if path.is_file() and path.name != "manifest.json" and path.suffix.lower() not in (*PICTURES, *VIDEOS):
            raise InputError(f"{path} is no picture or video; name such, folders of them, samples or a data set's manifest.json.")
    alone, loose = is_alone(sources, choice), all(p.suffix.lower() in PICTURES or p.is_dir() for p in sources)
    if not choice.straight:
        reconstructor.reference(choice.view)
    ways = [f"--{name}" for name in ("mask", "box", "auto") if getattr(choice.cut, name)]
    if len(ways) > 1:
        raise InputError(f"{' and '.join(ways)} each cut the animal out: give one of them.")
    recorded = [path for path in sources if path.name == "manifest.json" or (path / CAMERAS).is_file()]
    if recorded and ways:
        raise InputError(f"{ways[0]} is of photos and videos; samples and data sets have their own masks.")
    if choice.straight and choice.reframe:
        raise InputError("--reframe is of single pictures; calibrated views are taken where their cameras say.")
    if choice.straight and reconstructor.input_views is not None:
        say(f"GS-LRM was trained on {reconstructor.input_views} views (gslrm.input_views): of more than that the first are used.")
    if choice.all_views and choice.view is not None:
        raise InputError("--view names one camera and --all-views takes all: give one of them.")
    if (choice.cut.mask or choice.cut.box) and (not alone or choice.calibration):
        raise InputError("--mask and --box are of one picture; several are cut out by an alpha channel, or with --auto.")
    if choice.cut.sam2 and not (choice.cut.box or choice.cut.auto):
        raise InputError("--sam2 draws the outline in a --box, or about what --auto found: give one of them.")
    if choice.calibration and (choice.all_views or choice.view is not None or not loose):
        raise InputError("--calibration is of loose pictures of one moment; samples and data sets have their own cameras.")
    if choice.elevations and (choice.straight or reconstructor.choice.view_conditioning not in TELLS_POSES):
        raise InputError("--elevations needs pictures whose camera is not known, and a base or experiment that is told cameras.")
    if choice.complete and (not choice.straight or reconstructor.choice.view_conditioning not in TELLS_POSES):
        raise InputError("--complete is of several views, and needs a base or experiment that is told cameras.")


def is_alone(sources: Sequence[Path], choice: Choice) -> bool:
    """Whether one model becomes of it all, so that it needs no folder of its own."""
    return choice.calibration is not None or (len(sources) == 1 and sources[0].suffix.lower() in PICTURES)


def recorded_rig(sources: Sequence[Path]) -> Rig | None:
    """Cameras of the first data set or sample among the sources: a base draws the views of these."""
    for path in sources:
        if path.name == "manifest.json":
            return Manifest.read(path).rig
        if (path / CAMERAS).is_file():
            return Rig(path.name, read_sample(path, 2).cameras)
    return None


def count_models(sources: Sequence[Path], choice: Choice) -> int:
    """How many models will be made."""
    return 1 if choice.calibration else sum(_count_of(path, choice) for path in sources)


def _count_of(path: Path, choice: Choice) -> int:
    if path.suffix.lower() in VIDEOS:
        return len(range(0, frame_count(path), choice.every))
    if path.name == "manifest.json":
        manifest = Manifest.read(path)
        return len(manifest.names[:: choice.every])
    return len(_pictures_in(path)) if path.is_dir() and not (path / CAMERAS).is_file() else 1


def _pictures_in(folder: Path) -> list[Path]:
    return sorted((p for p in visible(folder) if p.suffix.lower() in PICTURES), key=lambda p: natural(p.name))


def items(sources: Sequence[Path], choice: Choice, reconstructor: Reconstructor) -> Iterator[Given]:
    """Name of everything in order, and what reads it: pictures are read one at a time."""
    if choice.calibration:
        files = [file for path in sources for file in (_pictures_in(path) if path.is_dir() else [path])]
        yield "moment", partial(_of_moment, files, choice, choice.calibration, reconstructor.image_size)
        return
    for path in sources:
        if path.name == "manifest.json":
            manifest = _require_fit(Manifest.read(path), reconstructor)
            names = manifest.names[:: choice.every]
            yield from samples_of(manifest, names, choice, reconstructor)
        elif (path / CAMERAS).is_file():
            manifest = Manifest(path.name, path.parent, reconstructor.rig, reconstructor.image_size, [], [], "")
            _require_fit(manifest, reconstructor)
            yield path.name, partial(_of_sample, manifest, path.name, choice, reconstructor)
        elif path.suffix.lower() in VIDEOS:
            mark, wanted = sha256(path), range(0, frame_count(path), choice.every)
            spread = evenly(list(wanted), BACKGROUND_FRAMES) if choice.cut.auto and len(wanted) > 1 else []
            still = background([frame for _, frame in read_frames(path, set(spread))]) if spread else None
            for number, frame in read_frames(path, set(wanted)):
                yield f"{path.stem}_{number:06d}", partial(_of_frame, path, f"{mark}-{number}", number, frame, choice.cut, still)
        else:
            for file in _pictures_in(path) if path.is_dir() else [path]:
                yield file.stem, partial(_of_photo, file, choice)


def samples_of(manifest: Manifest, names: Sequence[str], choice: Choice, reconstructor: Reconstructor) -> Iterator[Given]:
    """Samples of a data set."""
    for name in names:
        yield name, partial(_of_sample, manifest, name, choice, reconstructor)


def _of_photo(file: Path, choice: Choice) -> Item:
    require_file(file, "name a picture of one animal")
    mark = sha256(file) + (sha256(choice.cut.mask) if choice.cut.mask else "")
    return Item(file.stem, mark, read_photo(file, choice.cut)[None])


def _of_frame(video: Path, mark: str, number: int, frame: Frame, cut: Cut, still: Frame | None) -> Item:
    name, opaque = f"{video.stem}_{number:06d}", np.full((*frame.shape[:2], 1), 255, np.uint8)
    pixels = found_in(frame, cut, name, still) if cut.auto else with_mask(np.concatenate([frame, opaque], -1), video)
    return Item(name, mark, cut_out(pixels, name)[None])


def _of_moment(files: list[Path], choice: Choice, calibration: Calibration, size: int) -> Item:
    moment = read_moment(files, choice.cut, calibration, size)
    mark = digest([*(sha256(file) for file in files), sha256(calibration.file), str(calibration.up), calibration.unit_mm])
    return Item("moment", mark, moment.rgba, moment.cameras, moment.millimetres)


def _of_sample(manifest: Manifest, name: str, choice: Choice, reconstructor: Reconstructor) -> Item:
    """A recorded moment with its own cameras: one of its views, or all."""
    sample = manifest.sample(name)
    views = list(range(manifest.views)) if choice.all_views else [reconstructor.reference(choice.view)]
    files = [sample.files[v] for v in range(manifest.views)]
    mark = digest([sha256(f) for f in [*files, sample.folder / CAMERAS]])
    return Item(name, mark, view_pictures(manifest, sample, views), sample.cameras[: manifest.views], manifest.millimetres)


def _require_fit(manifest: Manifest, reconstructor: Reconstructor) -> Manifest:
    """The data set, if its cameras and pictures are those that the model draws."""
    if manifest.views != len(reconstructor.rig.cameras):
        raise InputError(
            f"{manifest.name} has {manifest.views} cameras, the experiment draws {len(reconstructor.rig.cameras)}: use an "
            "experiment of this rig, or a base."
        )
    if manifest.image_size != reconstructor.image_size:
        raise InputError(
            f"{manifest.name} has pictures of {manifest.image_size} px, the model takes {reconstructor.image_size} px."
        )
    return manifest
