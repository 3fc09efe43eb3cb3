"""`mvfl reconstruct`: pictures, folders, videos or samples -> 3D models, one folder each, with a summary of all."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from mvfl.config.patterns import visible
from mvfl.data.framing import framed, framing, training_pictures, usual_framing
from mvfl.data.pictures import composite
from mvfl.geometry.cameras import Camera, orbit_camera
from mvfl.gslrm.formats import FORMATS, require_known
from mvfl.metrics.pictures import to_pil
from mvfl.records.manifest import Manifest
from mvfl.records.pieces import Piece
from mvfl.records.provenance import Provenance
from mvfl.records.reconstructed import ModelRecord, ModelsList
from mvfl.runtime.endings import TimeSpent, Unfinished
from mvfl.runtime.files import InputError
from mvfl.runtime.progress import say, tracked
from mvfl.runtime.provenance import write_provenance
from mvfl.runtime.training_state import StopRequest
from mvfl.stages.jobs import ModelsJob
from mvfl.stages.model3d import Model3D
from mvfl.stages.models_page import CUT_OUT, PAGE_FILES, summarise
from mvfl.stages.reconstructor import Reconstructor
from mvfl.stages.sources import PLAIN, Choice, Given, Item, count_models, is_alone, items, recorded_rig, require_sense, samples_of

FILM = "turntable.mp4"
MADE = ("provenance.json", "model.json", "gaussians.ply", "views.png", "turntable.gif", "viewer.html")


@dataclass(frozen=True)
class Extras:
    """What is written besides; it changes no model.

    Attributes:
        film: `turntable.mp4` of a single picture, `film.mp4` that goes round all of several.
        formats: of `mvfl.gslrm.formats.FORMATS`.
        recorded: when the recording began, for NWB.
    """

    film: bool = False
    formats: tuple[str, ...] = ()
    recorded: datetime | None = None


def run(
    sources: Sequence[Path], out: Path, learned: Path | None = None, choice: Choice = PLAIN, rig: str | None = None,
    extras: Extras = Extras(), fit_steps: int | None = None,
) -> None:  # fmt: skip
    """Reconstruct everything that the sources hold; what is there already is kept.

    Args:
        sources: pictures, folders of pictures, videos (cut out or on white), sample folders, or a data set's `manifest.json`.
        out: of a single picture, the result itself; otherwise a folder per picture, `models.csv` and `index.html`.
        learned: experiment or base; default: the base that ships with mvfl.
        choice: how pictures are taken.
        rig: of a base: cameras to draw; default: those that it was saved with, or `ring60`.
        extras: films and further formats.
        fit_steps: as for `Reconstructor.load`.

    Raises:
        InputError: see the helpers.
    """
    sources = [path / "manifest.json" if (path / "manifest.json").is_file() else path for path in sources]  # a data set's folder
    own = recorded_rig(sources)
    if rig is not None and own is not None:
        raise InputError("--rig is of pictures whose cameras are not known; samples and data sets have their own.")
    require_own(out)
    reconstruct_with(Reconstructor.load(learned, own or rig, fit_steps=fit_steps), sources, out, choice, extras)


def reconstruct_with(
    reconstructor: Reconstructor, sources: Sequence[Path], out: Path, choice: Choice = PLAIN, extras: Extras = Extras()
) -> None:
    """The same as `run` with weights that are loaded already."""
    reconstructor = replace(reconstructor, filters=choice.filters)
    alone = is_alone(sources, choice)
    require_sense(choice, reconstructor, sources)
    given = tracked(items(sources, choice, reconstructor), "pictures", count_models(sources, choice))
    names, left_out = _make_all(given, out, alone, reconstructor, choice, extras)
    if names:
        summarise(out, [out if alone else out / name for name in names], extras.film, left_out, recorded=extras.recorded)
    if left_out:
        count = len(names) + len(left_out)
        raise InputError(f"{len(left_out)} of {count} pictures were left out, all others are done. " + " ".join(left_out))
    if not names:
        raise InputError(
            f"{', '.join(map(str, sources))}: no pictures in there; name pictures, videos, sample folders or a data set's "
            "manifest.json."
        )


def run_share(job: ModelsJob, minutes: float | None = None) -> None:
    """Make one share of a data set's models and list them in `job.out`; what is there already is kept.

    Raises:
        InputError: no sample of the share gave a model; see the helpers for more.
        Unfinished: stopped in good order; finished models are kept.
    """
    settings, piece = job.reconstruct, Piece.parse(job.piece)
    require_known(settings.formats)
    choice = Choice(view=settings.view, all_views=settings.all_views, complete=settings.complete)
    reconstructor = Reconstructor.load(job.experiment)
    require_sense(choice, reconstructor, [job.manifest])
    manifest = Manifest.read(job.manifest)
    everything = manifest.names[:: settings.every]
    mine = everything[piece.number - 1 :: piece.count]
    given = _until(StopRequest(minutes), tracked(samples_of(manifest, mine, choice, reconstructor), "models", len(mine)))
    names, left_out = _make_all(given, job.folder, False, reconstructor, choice, Extras(formats=tuple(settings.formats)))
    if left_out and not names:
        raise InputError(f"None of {len(mine)} samples gave a model: {left_out[0]}")
    ModelsList(names=names, left_out=left_out).write(job.out)


def _until(stop: StopRequest, given: Iterable[Given]) -> Iterator[Given]:
    """The same, until a job has to end."""
    for done, entry in enumerate(given):
        if stop:
            ending = TimeSpent if stop.time_spent else Unfinished
            raise ending(f"Stopped after {done} samples ({stop.reason}); run again to go on.")
        yield entry


def _make_all(
    given: Iterable[Given], out: Path, alone: bool, reconstructor: Reconstructor, choice: Choice, extras: Extras
) -> tuple[list[str], list[str]]:
    """Make the models that are not there yet; returns names, and what was left out and why."""
    names: list[str] = []
    left_out: list[str] = []
    waiting: list[tuple[Item, Tensor]] = []

    def make(batch: list[tuple[Item, Tensor]]) -> None:
        """Together; where one of them gives no model, each by itself, so that it costs itself alone."""
        try:
            _make(batch, out, alone, reconstructor, choice, extras)
        except InputError as error:
            if alone:
                raise
            if len(batch) > 1:
                for entry in batch:
                    make([entry])
                return
            names.remove(batch[0][0].name)
            left_out.append(f"{batch[0][0].name}: {error}")

    for name, read in given:
        if name in names:
            raise InputError(f"Two pictures are called {name}; rename one, or give them in two runs.")
        try:
            item = read()
            if not _is_done(out if alone else out / name, alone, choice.settings(item.mark, reconstructor.mark), extras):
                waiting.append((item, item.rgba[0] if choice.straight else _shown(item, reconstructor, choice)))
        except InputError as error:  # one picture in which nothing is to be seen must not cost a whole recording
            if alone:
                raise
            left_out.append(f"{name}: {error}")
            continue
        names.append(name)
        if len(waiting) == reconstructor.choice.sampling.batch_size:
            make(waiting)
            waiting = []
    if waiting:
        make(waiting)
    return names, left_out


def _is_done(folder: Path, alone: bool, settings: dict[str, object], extras: Extras) -> bool:
    """Whether a folder holds the model of this picture, made in this way with these weights."""
    film = (FILM,) if extras.film and alone else ()
    if not all((folder / name).is_file() for name in (*MADE, *film, *(f"animal.{kind}" for kind in extras.formats))):
        return False
    try:
        ModelRecord.read(folder / "model.json")  # an older mvfl measured less
        return bool(Provenance.read(folder / "provenance.json").settings == settings)
    except InputError:
        return False


def _make(
    waiting: list[tuple[Item, Tensor]], out: Path, alone: bool, reconstructor: Reconstructor, choice: Choice, extras: Extras
) -> None:
    """Reconstruct some items at once and write each."""
    items = [item for item, _ in waiting]
    for item, model in zip(items, _models(items, [shown for _, shown in waiting], reconstructor, choice), strict=True):
        folder = out if alone else out / item.name
        if alone and (before := _name_of(folder)) not in (None, item.name):
            say(f"{folder} held the model of {before}, which is replaced; another --out keeps both.")
        _clear(folder)
        model.save(folder, film=extras.film and alone, formats=extras.formats)
        if model.reference is not None:
            to_pil(composite(item.rgba, 1.0)[0]).save(folder / CUT_OUT)
        _measured(item.name, model, bool(choice.elevations)).write(folder / "model.json")
        settings = choice.settings(item.mark, reconstructor.mark)
        write_provenance(folder, "reconstruct", settings, reconstructor.sources, reconstructor.rig.hash)


def _name_of(folder: Path) -> str | None:
    """What the model in a folder is called; None where there is none that this mvfl reads."""
    try:
        return ModelRecord.read(folder / "model.json").name
    except InputError:
        return None


def require_own(out: Path) -> None:
    """A result is written into a new or empty folder, or over an earlier result; among other files it could replace some.

    Raises:
        InputError: there are other files in it, or it cannot be written.
    """
    if out.is_dir() and not _is_result(out):
        raise InputError(f"{out} holds other files, and a result could replace some of them; name a new folder (--out).")
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error.strerror}); name another folder (--out).") from error


def _is_result(folder: Path, within: bool = False) -> bool:
    """Whether a folder holds nothing, or what `mvfl reconstruct` wrote; an interrupted run leaves some of it."""
    names = {path.name for path in visible(folder)}
    if names & {"model.json", "models.csv"}:
        return True
    if names and names <= set(PAGE_FILES):
        return False  # pages come last: a page without models is somebody's own
    own = {*MADE, CUT_OUT, FILM, *PAGE_FILES, "views", "turntable.png", *(f"animal.{kind}" for kind in FORMATS)}
    return all(name in own or (not within and (folder / name).is_dir() and _is_result(folder / name, True)) for name in names)


def _clear(folder: Path) -> None:
    """Take away what an earlier model left: half a result must not count as done, nor another animal's files stand beside it."""
    formats = [folder / f"animal.{kind}" for kind in FORMATS]
    for file in (folder / "provenance.json", folder / CUT_OUT, folder / FILM, *formats, *folder.glob("views/cam_*.png")):
        file.unlink(missing_ok=True)


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
    if choice.straight:
        for item in items:
            if item.cameras is None:
                raise InputError(
                    "--all-views takes sample folders or a data set; for the cameras of loose pictures there is --calibration."
                )
        return [
            reconstructor.from_views(composite(i.rgba, 1.0), i.cameras or [], i.millimetres, choice.complete, choice.seed)
            for i in items
        ]
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
    wanted = (usual_framing(manifest, rgba) if manifest else reconstructor.usual) if choice.reframe else None
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
