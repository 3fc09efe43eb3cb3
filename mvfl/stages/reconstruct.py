"""`mvfl reconstruct`: pictures, folders, videos or samples -> 3D models, one folder each, with a summary of all."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mvfl.data.framing import framed, framing, training_pictures, usual_framing
from mvfl.data.photos import cut_out, read_photo
from mvfl.data.pictures import composite, view_pictures, with_mask
from mvfl.data.videos import frame_count, read_frames
from mvfl.geometry.cameras import Camera
from mvfl.geometry.rig import Rig
from mvfl.records.manifest import Manifest
from mvfl.records.provenance import Provenance
from mvfl.records.reconstructed import ModelRecord
from mvfl.records.samples import CAMERAS, read_sample
from mvfl.runtime.files import InputError, digest, sha256, written_aside
from mvfl.runtime.progress import say, tracked
from mvfl.runtime.provenance import write_provenance
from mvfl.stages.pages import inline, write_page
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
    """

    view: int | None = None
    all_views: bool = False
    reframe: bool = False
    every: int = 1
    seed: int | None = None
    mask: Path | None = None


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
    film: bool = False,
) -> None:  # fmt: skip
    """Reconstruct everything that the sources hold; what is there already is kept.

    Args:
        sources: pictures, folders of pictures, videos (cut out or on white), sample folders, or a data set's `manifest.json`.
        out: of a single picture, the result itself; otherwise a folder per picture, `models.csv` and `index.html`.
        learned: experiment or base; default: the base that ships with mvfl.
        choice: how pictures are taken.
        rig: of a base: cameras to draw.
        film: also write `turntable.mp4`.

    Raises:
        InputError: see the helpers.
    """
    reconstructor = Reconstructor.load(learned, _recorded_rig(sources) or rig)
    alone = len(sources) == 1 and sources[0].suffix.lower() in PICTURES
    if choice.mask and not alone:
        raise InputError("--mask is of one picture; cut several out by an alpha channel.")
    names: list[str] = []
    waiting: list[Item] = []
    for item in tracked(_items(sources, choice, reconstructor), "pictures", _count(sources, choice)):
        folder = out if alone else out / item.name
        if item.name in names:
            raise InputError(f"Two pictures are called {item.name}; rename one, or give them in two runs.")
        names.append(item.name)
        if _is_done(folder, item, choice):
            continue
        waiting.append(item)
        if len(waiting) == reconstructor.choice.sampling.batch_size:
            _make(waiting, out, alone, reconstructor, choice, film)
            waiting = []
    if waiting:
        _make(waiting, out, alone, reconstructor, choice, film)
    if not names:
        raise InputError(f"{', '.join(map(str, sources))}: no pictures in there; name pictures, videos or samples.")
    _summarise(out, [out if alone else out / name for name in names])


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


def _items(sources: Sequence[Path], choice: Choice, reconstructor: Reconstructor) -> Iterator[Item]:
    """Everything in order; pictures are read one at a time."""
    for path in sources:
        if path.name == "manifest.json":
            manifest = Manifest.read(path)
            for name in [*manifest.train, *manifest.val, *manifest.test][:: choice.every]:
                yield _of_sample(manifest, name, choice, reconstructor)
        elif (path / CAMERAS).is_file():
            manifest = Manifest(path.name, path.parent, reconstructor.rig, reconstructor.image_size, [], [], "")
            yield _of_sample(manifest, path.name, choice, reconstructor)
        elif path.suffix.lower() in VIDEOS:
            for number, frame in read_frames(path, set(range(0, frame_count(path), choice.every))):
                opaque = np.full((*frame.shape[:2], 1), 255, np.uint8)
                name = f"{path.stem}_{number:06d}"
                rgba = cut_out(with_mask(np.concatenate([frame, opaque], -1), path), name)
                yield Item(name, f"{sha256(path)}-{number}", rgba[None])
        else:
            for file in _pictures_in(path) if path.is_dir() else [path]:
                mark = sha256(file) + (sha256(choice.mask) if choice.mask else "")
                yield Item(file.stem, mark, read_photo(file, choice.mask)[None])


def _of_sample(manifest: Manifest, name: str, choice: Choice, reconstructor: Reconstructor) -> Item:
    """A recorded moment with its own cameras: one of its views, or all."""
    sample = manifest.sample(name)
    if manifest.views != len(reconstructor.rig.cameras):
        raise InputError(
            f"{manifest.name} has {manifest.views} cameras, the experiment draws {len(reconstructor.rig.cameras)}: use an "
            "experiment of this rig, or a base."
        )
    if manifest.image_size != reconstructor.image_size:
        raise InputError(
            f"{manifest.name} has pictures of {manifest.image_size} px, the model takes {reconstructor.image_size} px."
        )
    views = list(range(manifest.views)) if choice.all_views else [reconstructor.reference(choice.view)]
    files = [sample.files[v] for v in range(manifest.views)]
    mark = digest([sha256(f) for f in [*files, sample.folder / CAMERAS]])
    return Item(name, mark, view_pictures(manifest, sample, views), sample.cameras[: manifest.views], manifest.millimetres)


# ------------------------------------------------------------------------------------------------------------ results
def _settings(item: Item, choice: Choice) -> dict[str, object]:
    return {**asdict(choice), "every": None, "mask": None, "pixels": item.mark}


def _is_done(folder: Path, item: Item, choice: Choice) -> bool:
    """Whether a folder holds the model of this picture, made in this way."""
    if not all((folder / name).is_file() for name in MADE):
        return False
    try:
        return bool(Provenance.read(folder / "provenance.json").settings == _settings(item, choice))
    except InputError:
        return False


def _make(items: list[Item], out: Path, alone: bool, reconstructor: Reconstructor, choice: Choice, film: bool) -> None:
    """Reconstruct some items at once and write each."""
    for item, model in zip(items, _models(items, reconstructor, choice), strict=True):
        folder = out if alone else out / item.name
        (folder / "provenance.json").unlink(missing_ok=True)  # half a result must not count as done
        model.save(folder, film=film)
        length, width, height = model.extent
        ModelRecord(
            name=item.name, gaussians=len(model.gaussians), agreement=model.agreement, length=length, width=width, height=height,
            unit="mm" if model.millimetres else "world units",
        ).write(folder / "model.json")  # fmt: skip
        write_provenance(folder, "reconstruct", _settings(item, choice), reconstructor.sources, reconstructor.rig.hash)


def _models(items: list[Item], reconstructor: Reconstructor, choice: Choice) -> list[Model3D]:
    if choice.all_views:
        for item in items:
            if item.cameras is None:
                raise InputError("--all-views takes sample folders or a data set: pictures alone have no cameras.")
        return [reconstructor.from_views(composite(i.rgba, 1.0), i.cameras or [], i.millimetres) for i in items]
    shown = torch.stack([_shown(item, reconstructor, choice) for item in items])
    seeds = None if choice.seed is None else [choice.seed] * len(items)
    own = [item.cameras or reconstructor.rig.cameras for item in items]
    models = reconstructor(shown, choice.view, own, seeds)
    return [Model3D(m.gaussians, m.views, m.cameras, m.reference, i.millimetres) for m, i in zip(models, items, strict=True)]


def _shown(item: Item, reconstructor: Reconstructor, choice: Choice) -> Float[Tensor, "3 side side"]:
    """The picture over white as the model knows it."""
    rgba, manifest = item.rgba[0], reconstructor.manifest
    if choice.reframe and manifest is None:
        raise InputError("--reframe takes the framing of an experiment's training pictures; name one with --experiment.")
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


def _summarise(out: Path, folders: list[Path]) -> None:
    """`models.csv` with a line per model, and a page with all of them, the least certain first."""
    rows = [(folder, ModelRecord.read(folder / "model.json")) for folder in folders]
    with written_aside(out / "models.csv") as temporary, open(temporary, "w", newline="", encoding="utf-8") as handle:
        table = csv.DictWriter(handle, [*ModelRecord.model_fields, "ply"])
        table.writeheader()
        for folder, record in rows:
            table.writerow({**record.model_dump(), "ply": str((folder / "gaussians.ply").relative_to(out))})
    ranked = sorted(rows, key=lambda row: row[1].agreement)
    shown = [
        (record, str(folder.relative_to(out)), inline(folder / "views.png"), inline(folder / "turntable.gif"))
        for folder, record in ranked[:24]
    ]
    agreement = sorted(record.agreement for _, record in rows)
    write_page(out / "index.html", "reconstructed", models=shown, count=len(rows), median=agreement[len(agreement) // 2])
    say(f"{len(rows)} models; look at {out / 'index.html'}, figures in {out / 'models.csv'}.")
