"""`mvfl reconstruct`: pictures, folders, videos or samples -> 3D models, one folder each, with a summary of all."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from mvfl.data.framing import framed, framing, training_pictures, usual_framing
from mvfl.data.photos import Box, cut_out, read_photo
from mvfl.data.pictures import composite, view_pictures, with_mask
from mvfl.data.videos import frame_count, read_frames
from mvfl.geometry.cameras import Camera, orbit_camera
from mvfl.geometry.rig import Rig
from mvfl.metrics.pictures import to_pil
from mvfl.mvdiffusion.conditioning import TELLS_POSES
from mvfl.records.manifest import Manifest
from mvfl.records.provenance import Provenance
from mvfl.records.reconstructed import ModelRecord
from mvfl.records.samples import CAMERAS, read_sample
from mvfl.runtime.files import InputError, digest, sha256
from mvfl.runtime.progress import say, tracked
from mvfl.runtime.provenance import write_provenance
from mvfl.stages.models_page import CUT_OUT, summarise
from mvfl.stages.reconstructor import Model3D, Reconstructor

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
MADE = ("provenance.json", "model.json", "gaussians.ply", "views.png", "turntable.gif", "viewer.html")
VIDEOS = (".mp4", ".avi", ".mkv", ".mov", ".webm")


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
        mask: of a single picture: white = animal.
        box: of a single picture: left, top, width, height around the animal, in which its outline is found.
        elevations: of the camera, degrees: each is tried, and that is kept whose model shows the photographed outline best.
    """

    view: int | None = None
    all_views: bool = False
    reframe: bool = False
    every: int = 1
    seed: int | None = None
    mask: Path | None = None
    box: Box | None = None
    elevations: tuple[float, ...] = ()


@dataclass(frozen=True)
class Extras:
    """What is written besides; it changes no model.

    Attributes:
        film: `turntable.mp4` of a single picture, `film.mp4` that goes round all of several.
        formats: of `mvfl.gslrm.formats.FORMATS`.
    """

    film: bool = False
    formats: tuple[str, ...] = ()


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


def run(
    sources: Sequence[Path], out: Path, learned: Path | None = None, choice: Choice = Choice(), rig: str = "ring60",
    extras: Extras = Extras(),
) -> None:  # fmt: skip
    """Reconstruct everything that the sources hold; what is there already is kept.

    Args:
        sources: pictures, folders of pictures, videos (cut out or on white), sample folders, or a data set's `manifest.json`.
        out: of a single picture, the result itself; otherwise a folder per picture, `models.csv` and `index.html`.
        learned: experiment or base; default: the base that ships with mvfl.
        choice: how pictures are taken.
        rig: of a base: cameras to draw.
        extras: films and further formats.

    Raises:
        InputError: see the helpers.
    """
    reconstructor = Reconstructor.load(learned, _recorded_rig(sources) or rig)
    alone = len(sources) == 1 and sources[0].suffix.lower() in PICTURES
    _require_sense(choice, reconstructor, alone)
    names: list[str] = []
    left_out: list[str] = []
    waiting: list[tuple[Item, Tensor]] = []
    for name, read in tracked(_items(sources, choice, reconstructor), "pictures", _count(sources, choice)):
        if name in names:
            raise InputError(f"Two pictures are called {name}; rename one, or give them in two runs.")
        try:
            item = read()
            if not _is_done(out if alone else out / name, item, choice, extras):
                waiting.append((item, item.rgba[0] if choice.all_views else _shown(item, reconstructor, choice)))
        except InputError as error:  # one picture in which nothing is to be seen must not cost a whole recording
            if alone:
                raise
            left_out.append(f"{name}: {error}")
            continue
        names.append(name)
        if len(waiting) == reconstructor.choice.sampling.batch_size:
            _make(waiting, out, alone, reconstructor, choice, extras)
            waiting = []
    if waiting:
        _make(waiting, out, alone, reconstructor, choice, extras)
    if names:
        summarise(out, [out if alone else out / name for name in names], extras.film, left_out)
    if left_out:
        count = len(names) + len(left_out)
        raise InputError(f"{len(left_out)} of {count} pictures were left out, all others are done. " + " ".join(left_out))
    if not names:
        raise InputError(f"{', '.join(map(str, sources))}: no pictures in there; name pictures, videos or samples.")


def _require_sense(choice: Choice, reconstructor: Reconstructor, alone: bool) -> None:
    """Whether the choices fit each other and what was loaded, before any picture is read."""
    if not choice.all_views:
        reconstructor.reference(choice.view)
    if choice.mask and choice.box:
        raise InputError("--mask and --box both cut the animal out: give one of them.")
    if (choice.mask or choice.box) and not alone:
        raise InputError("--mask and --box are of one picture; cut several out by an alpha channel.")
    if choice.elevations and (choice.all_views or reconstructor.choice.view_conditioning not in TELLS_POSES):
        raise InputError("--elevations needs pictures whose camera is not known, and a base or experiment that is told cameras.")
    if choice.reframe and reconstructor.manifest is None:
        raise InputError("--reframe takes the framing of an experiment's training pictures; name one with --experiment.")


# ------------------------------------------------------------------------------------------------------- what is given
def _recorded_rig(sources: Sequence[Path]) -> Rig | None:
    """Cameras of the first data set or sample among the sources: a base draws the views of these."""
    for path in sources:
        if path.name == "manifest.json":
            return Manifest.read(path).rig
        if (path / CAMERAS).is_file():
            return Rig(path.name, read_sample(path, 2).cameras)
    return None


def _count(sources: Sequence[Path], choice: Choice) -> int:
    return sum(_count_of(path, choice) for path in sources)


def _count_of(path: Path, choice: Choice) -> int:
    if path.suffix.lower() in VIDEOS:
        return len(range(0, frame_count(path), choice.every))
    if path.name == "manifest.json":
        manifest = Manifest.read(path)
        return len([*manifest.train, *manifest.val, *manifest.test][:: choice.every])
    return len(_pictures_in(path)) if path.is_dir() and not (path / CAMERAS).is_file() else 1


def _pictures_in(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in PICTURES)


def _items(sources: Sequence[Path], choice: Choice, reconstructor: Reconstructor) -> Iterator[tuple[str, Callable[[], Item]]]:
    """Name of everything in order, and what reads it: pictures are read one at a time."""
    for path in sources:
        if path.name == "manifest.json":
            manifest = _require_fit(Manifest.read(path), reconstructor)
            for name in [*manifest.train, *manifest.val, *manifest.test][:: choice.every]:
                yield name, partial(_of_sample, manifest, name, choice, reconstructor)
        elif (path / CAMERAS).is_file():
            manifest = Manifest(path.name, path.parent, reconstructor.rig, reconstructor.image_size, [], [], "")
            _require_fit(manifest, reconstructor)
            yield path.name, partial(_of_sample, manifest, path.name, choice, reconstructor)
        elif path.suffix.lower() in VIDEOS:
            mark = sha256(path)
            for number, frame in read_frames(path, set(range(0, frame_count(path), choice.every))):
                yield f"{path.stem}_{number:06d}", partial(_of_frame, path, f"{mark}-{number}", number, frame)
        else:
            for file in _pictures_in(path) if path.is_dir() else [path]:
                yield file.stem, partial(_of_photo, file, choice)


def _of_photo(file: Path, choice: Choice) -> Item:
    mark = sha256(file) + (sha256(choice.mask) if choice.mask else "")
    return Item(file.stem, mark, read_photo(file, choice.mask, choice.box)[None])


def _of_frame(video: Path, mark: str, number: int, frame: UInt8[np.ndarray, "height width 3"]) -> Item:
    name, opaque = f"{video.stem}_{number:06d}", np.full((*frame.shape[:2], 1), 255, np.uint8)
    rgba = cut_out(with_mask(np.concatenate([frame, opaque], -1), video), name)
    return Item(name, mark, rgba[None])


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


# ------------------------------------------------------------------------------------------------------------ results
def _settings(item: Item, choice: Choice) -> dict[str, object]:
    plain = {"box": choice.box and list(choice.box), "elevations": list(choice.elevations)}  # as JSON gives them back
    return {**asdict(choice), **plain, "every": None, "mask": None, "pixels": item.mark}


def _is_done(folder: Path, item: Item, choice: Choice, extras: Extras) -> bool:
    """Whether a folder holds the model of this picture, made in this way."""
    if not all((folder / name).is_file() for name in (*MADE, *(f"animal.{kind}" for kind in extras.formats))):
        return False
    try:
        ModelRecord.read(folder / "model.json")  # an older mvfl measured less
        return bool(Provenance.read(folder / "provenance.json").settings == _settings(item, choice))
    except InputError:
        return False


def _make(
    waiting: list[tuple[Item, Tensor]], out: Path, alone: bool, reconstructor: Reconstructor, choice: Choice, extras: Extras
) -> None:
    """Reconstruct some items at once and write each."""
    items = [item for item, _ in waiting]
    for item, model in zip(items, _models(items, [shown for _, shown in waiting], reconstructor, choice), strict=True):
        folder = out if alone else out / item.name
        (folder / "provenance.json").unlink(missing_ok=True)  # half a result must not count as done
        model.save(folder, film=extras.film and alone, formats=extras.formats)
        if model.reference is not None:
            to_pil(composite(item.rgba, 1.0)[0]).save(folder / CUT_OUT)
        _measured(item.name, model, bool(choice.elevations)).write(folder / "model.json")
        write_provenance(folder, "reconstruct", _settings(item, choice), reconstructor.sources, reconstructor.rig.hash)


def _measured(name: str, model: Model3D, tried: bool) -> ModelRecord:
    """The figures of a model; of its camera's elevation where that was tried out."""
    (length, width, height), scale = model.extent, model.millimetres or 1.0
    return ModelRecord(
        name=name, gaussians=len(model.gaussians), agreement=model.agreement, length=length, width=width, height=height,
        volume=model.body.volume * scale**3, surface=model.body.surface * scale**2,
        unit="mm" if model.millimetres else "world units", embedding=model.body.embedding.tolist(),
        elevation=round(model.cameras[model.reference or 0].spherical[1], 1) if tried else None,
        elevation_margin=model.elevation_margin,
    )  # fmt: skip


def _models(items: list[Item], pictures: list[Tensor], reconstructor: Reconstructor, choice: Choice) -> list[Model3D]:
    if choice.all_views:
        for item in items:
            if item.cameras is None:
                raise InputError("--all-views takes sample folders or a data set: pictures alone have no cameras.")
        return [reconstructor.from_views(composite(i.rgba, 1.0), i.cameras or [], i.millimetres) for i in items]
    shown = torch.stack(pictures)
    seeds = None if choice.seed is None else [choice.seed] * len(items)
    own = [item.cameras or reconstructor.rig.cameras for item in items]
    if choice.elevations and any(item.cameras is not None for item in items):
        raise InputError("--elevations is of pictures whose camera is not known; the cameras of samples and data sets are.")
    if choice.elevations:
        return _of_best_elevation(shown, own, reconstructor, choice, seeds)
    models = reconstructor(shown, choice.view, own, seeds)
    return [Model3D(m.gaussians, m.views, m.cameras, m.reference, i.millimetres) for m, i in zip(models, items, strict=True)]


def _of_best_elevation(
    shown: Tensor, own: list[list[Camera]], reconstructor: Reconstructor, choice: Choice, seeds: list[int] | None
) -> list[Model3D]:
    """Of each picture the model of that camera elevation whose outline agrees best with the photographed one."""
    reference = reconstructor.reference(choice.view)
    tried = []
    for elevation in choice.elevations:
        cameras = [list(those) for those in own]
        for those in cameras:
            azimuth, _, distance = those[reference].spherical
            turned = orbit_camera(azimuth, elevation, distance, those[reference].width)
            those[reference] = replace(turned, fx=those[reference].fx, fy=those[reference].fy)
        tried.append(reconstructor(shown, choice.view, cameras, seeds))
    best = []
    for models in zip(*tried, strict=True):
        first, *others = sorted(models, key=lambda m: -m.agreement)
        best.append(replace(first, elevation_margin=first.agreement - others[0].agreement if others else None))
    return best


def _shown(item: Item, reconstructor: Reconstructor, choice: Choice) -> Float[Tensor, "3 side side"]:
    """The picture over white as the model knows it."""
    rgba, manifest = item.rgba[0], reconstructor.manifest
    wanted = usual_framing(manifest, rgba) if choice.reframe and manifest else None
    if wanted is None and manifest is not None and item.cameras is None:
        _warn_of_unusual_size(manifest, rgba, item.name)
    return framed(rgba, reconstructor.image_size, wanted)


def _warn_of_unusual_size(manifest: Manifest, rgba: Float[Tensor, "4 height width"], name: str) -> None:
    ratio = framing(rgba[3]).size_ratio
    usual = [framing(picture[3]).size_ratio for picture in itertools.islice(training_pictures(manifest), 60)]
    if not 0.8 * min(usual) <= ratio <= 1.25 * max(usual):
        say(
            f"Warning: in {name} the animal has a size ratio of {ratio:.2f}, in training {min(usual):.2f} to {max(usual):.2f}; "
            "try --reframe."
        )
