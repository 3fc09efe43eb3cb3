"""Data of kind `rodent`: render the embedded animal into sample folders."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from threadpoolctl import threadpool_limits

from mvfl.config.datasets import RodentDataset
from mvfl.data.rodent.renderer import Light
from mvfl.data.rodent.sampling import Lenses, make_sample
from mvfl.geometry.cameras import ORBIT_DISTANCE, Camera, orbit_camera
from mvfl.geometry.rig import load_rig
from mvfl.records.manifest import Manifest
from mvfl.records.samples import write_sample
from mvfl.runtime.files import written_aside
from mvfl.runtime.progress import tracked
from mvfl.runtime.provenance import write_provenance

# Of samples with cameras of their own: what prepared recordings have, and some more. Degrees, shares of the mean distance, world
# units of the animal's length, and how far the animal reaches to the border.
TURN, ELEVATIONS, DISTANCES, LENGTHS, REACHES = 25.0, (-5.0, 85.0), (0.7, 1.3), (0.6, 2.0), (0.55, 0.92)


@dataclass(frozen=True)
class _Scene:
    """What a sample is drawn with.

    Attributes:
        cameras: the rig's views, then the held-out ones.
        lenses: None = the rig's own lenses, and the animal's size follows.
        light: None = the usual one.
        colour: whether the pictures have any.
    """

    cameras: list[Camera]
    lenses: Lenses | None
    light: Light | None
    colour: bool


def _scene(settings: RodentDataset, index: int) -> _Scene:
    """Cameras, size, light and colour of one sample."""
    rig, rng = load_rig(settings.rig, settings.image_size), np.random.default_rng([settings.seed, index, 2])
    light = Light(*(float(v) for v in rng.uniform((0.4, 0.5, 0.2), (0.98, 1.15, 0.5)))) if settings.varied_light else None
    colour = not rng.uniform() < settings.without_colour
    if not rng.uniform() < settings.any_rig:
        return _Scene([*rig.cameras, *_extra_cameras(settings, index)], None, light, colour)
    views = len(rig.cameras)
    count = views + settings.extra_views
    azimuths = [c.spherical[0] + t for c, t in zip(rig.cameras, rng.uniform(-TURN, TURN, views), strict=True)]
    azimuths += rng.uniform(0, 360, settings.extra_views).tolist()
    distances = rng.uniform(*DISTANCES, count)
    distances *= ORBIT_DISTANCE / distances[:views].mean()
    places = zip(azimuths, rng.uniform(*ELEVATIONS, count), distances, strict=True)
    cameras = [orbit_camera(float(a), float(e), float(d), settings.image_size) for a, e, d in places]
    lenses = Lenses(float(np.exp(rng.uniform(*np.log(LENGTHS)))), rng.uniform(*REACHES, count).tolist())
    return _Scene(cameras, lenses, light, colour)


def _extra_cameras(settings: RodentDataset, index: int) -> list[Camera]:
    """Held-out cameras of one sample: any azimuth, elevation 0 to 40 degrees."""
    rng = np.random.default_rng([settings.seed, index, 1])
    angles = zip(rng.uniform(0, 360, settings.extra_views), rng.uniform(0, 40, settings.extra_views), strict=True)
    return [orbit_camera(a, e, size=settings.image_size) for a, e in angles]


def _without_colour(picture: np.ndarray) -> np.ndarray:
    """RGBA in grey: luma of Rec. 601."""
    grey = np.rint(picture[..., :3] @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)
    return np.concatenate([np.repeat(grey[..., None], 3, -1), picture[..., 3:]], -1)


def _one_thread() -> None:
    """Workers share the cores: a BLAS with threads of its own would make each of them three times slower."""
    threadpool_limits(1)


def render_sample(settings: RodentDataset, folder: Path, index: int) -> str:
    """Render one sample into `folder`, from (seed, index) alone; returns its name."""
    scene = _scene(settings, index)
    rendered = make_sample(
        (settings.seed, index), scene.cameras, settings.coats, settings.poses, settings.fill, settings.fur_layers,
        frame_cameras=len(scene.cameras) - settings.extra_views, lenses=scene.lenses, light=scene.light,
    )  # fmt: skip
    pictures = rendered.pictures if scene.colour else [_without_colour(p) for p in rendered.pictures]
    name = f"sample_{index:06d}"
    write_sample(folder / name, rendered.cameras, [Image.fromarray(p) for p in pictures], **rendered.meta)
    return name


def render_dataset(name: str, settings: RodentDataset, out: Path, workers: int) -> Manifest:
    """Render all samples, the validation and test samples last, each from (seed, index) alone.

    Args:
        name: of the data set.
        settings: what to render.
        out: gets `samples/`, `manifest.json` and `provenance.json`.
        workers: processes.
    """
    count = settings.train + settings.val + settings.test
    names = [f"sample_{i:06d}" for i in range(count)]
    with written_aside(out / "samples") as folder:
        folder.mkdir()
        one = partial(render_sample, settings, folder)
        with ProcessPoolExecutor(workers, initializer=_one_thread) as pool:
            for _ in tracked(pool.map(one, range(count), chunksize=4), f"render {name}", count):
                pass
    rig = load_rig(settings.rig, settings.image_size)
    write_provenance(out, "data", settings.model_dump(mode="json"), {}, rig.hash)
    return Manifest.write(
        out / "manifest.json", name, out / "samples", rig, settings.image_size,
        names[: settings.train], names[settings.train :][: settings.val], test=names[settings.train + settings.val :],
    )  # fmt: skip
