"""Data of kind `rodent`: render the embedded animal into sample folders."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from threadpoolctl import threadpool_limits

from mvfl.config.datasets import RodentDataset
from mvfl.data.rodent.sampling import make_sample
from mvfl.geometry.cameras import Camera, orbit_camera
from mvfl.geometry.rig import load_rig
from mvfl.records.manifest import Manifest
from mvfl.records.samples import write_sample
from mvfl.runtime.files import written_aside
from mvfl.runtime.progress import tracked
from mvfl.runtime.provenance import write_provenance


def _extra_cameras(settings: RodentDataset, index: int) -> list[Camera]:
    """Held-out cameras of one sample: any azimuth, elevation 0 to 40 degrees."""
    rng = np.random.default_rng([settings.seed, index, 1])
    angles = zip(rng.uniform(0, 360, settings.extra_views), rng.uniform(0, 40, settings.extra_views), strict=True)
    return [orbit_camera(a, e, size=settings.image_size) for a, e in angles]


def _one_thread() -> None:
    """Workers share the cores: a BLAS with threads of its own would make each of them three times slower."""
    threadpool_limits(1)


def render_sample(settings: RodentDataset, folder: Path, index: int) -> str:
    """Render one sample into `folder`, from (seed, index) alone; returns its name."""
    rig = load_rig(settings.rig, settings.image_size)
    cameras = [*rig.cameras, *_extra_cameras(settings, index)]
    rendered = make_sample(
        (settings.seed, index), cameras, settings.coats, settings.poses, settings.fill, settings.fur_layers,
        frame_cameras=len(rig.cameras),
    )  # fmt: skip
    name = f"sample_{index:06d}"
    write_sample(folder / name, cameras, [Image.fromarray(p) for p in rendered.pictures], **rendered.meta)
    return name


def render_dataset(name: str, settings: RodentDataset, out: Path, workers: int) -> Manifest:
    """Render all samples, the validation samples last, each from (seed, index) alone.

    Args:
        name: of the data set.
        settings: what to render.
        out: gets `samples/`, `manifest.json` and `provenance.json`.
        workers: processes.
    """
    count = settings.train + settings.val
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
        names[: settings.train], names[settings.train :],
    )  # fmt: skip
