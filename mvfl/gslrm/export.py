"""A 3D model as files: Gaussians after the published filters, a turntable of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from mvfl.geometry.cameras import Camera, turntable
from mvfl.geometry.tensors import camera_tensors
from mvfl.gslrm.gaussians import Gaussians, filter_indices
from mvfl.gslrm.model import Gslrm
from mvfl.gslrm.ply import save_ply
from mvfl.gslrm.rendering import Renderer, render
from mvfl.gslrm.scoring import infer
from mvfl.gslrm.views import Views
from mvfl.metrics.pictures import save_grid, to_pil
from mvfl.runtime.devices import device
from mvfl.runtime.files import InputError, written_aside
from mvfl.runtime.progress import tracked

FLOATER = 0.6  # far out and low down: the published filter against what floats there


@dataclass(frozen=True)
class Filters:
    """Which Gaussians stay in a model; by default those of the published inference.

    Attributes:
        min_opacity: 0 to 1.
        max_scale: of the largest standard deviation, world units; of Gaussians below the middle only, as published.
        box: x0, x1, y0, y1, z0, z1 in world units.
    """

    min_opacity: float = 0.04
    max_scale: float = 0.1
    box: tuple[float, float, float, float, float, float] = (-0.91, 0.91, -0.91, 0.91, -1.0, 1.0)


PUBLISHED = Filters()


@torch.no_grad()
def visible_gaussians(model: Gslrm, inputs: Views, what: str, filters: Filters = PUBLISHED) -> Gaussians:
    """Gaussians of one object that are not filtered away.

    Args:
        model: on the device to use.
        inputs: the views that the network sees.
        what: named in the error.
        filters: which stay.

    Raises:
        InputError: the filters leave nothing.
    """
    gaussians = infer(model, Views.stacked([inputs.to(device())])).gaussians[0]
    kept = filter_indices(gaussians, filters.min_opacity, filters.max_scale, FLOATER, filters.box)
    if len(kept) == 0 and filters != PUBLISHED:
        raise InputError(f"Nothing of {what} passes --min-opacity, --max-size and --crop; ask for less.")
    if len(kept) == 0:
        raise InputError(f"GS-LRM drew nothing visible for {what}; its training failed, look at the loss and the renders.")
    return gaussians[kept]


def write_model(gaussians: Gaussians, turntable_views: int, size: int, renderer: Renderer, out: Path) -> None:
    """Write `gaussians.ply` and the turntable of one object."""
    with written_aside(out / "gaussians.ply") as temporary:
        save_ply(gaussians, temporary)
    save_turntable(gaussians, turntable_views, size, renderer, out)


def reach_of(gaussians: Gaussians) -> float:
    """How far an object reaches from the origin, but for its last half per cent of opacity."""
    weight = gaussians.opacity_logits.flatten().sigmoid()
    order = gaussians.xyz.norm(dim=1).argsort()
    share = weight[order].cumsum(0) / weight.sum()
    return float(gaussians.xyz[order].norm(dim=1)[int((share < 0.995).sum().clamp(max=len(order) - 1))])


@torch.no_grad()
def filled_by(gaussians: Gaussians, cameras: list[Camera]) -> list[Camera]:
    """The same cameras with a longer lens, so that the object fills most of the picture: an animal may be small in its world.

    Args:
        gaussians: of one object.
        cameras: all around it, of one lens.
    """
    reach = reach_of(gaussians)
    camera, distance = cameras[0], float(np.linalg.norm(cameras[0].position))
    shown = camera.width / 2 / camera.fx * distance  # half of the world that the picture shows, at the object's place
    nearest = max(reach, 1e-3) * distance / max(distance - reach, 0.1)  # what is nearer looks larger
    zoom = min(4.0, max(1.0, 0.95 * shown / nearest))
    return [replace(c, fx=c.fx * zoom, fy=c.fy * zoom) for c in cameras]


@torch.no_grad()
def save_film(moments: Sequence[Gaussians], path: Path, views: int = 180, size: int = 512, renderer: Renderer = "auto") -> None:
    """A film of an object while the camera goes round it once, H.264 at 30 frames a second.

    Args:
        moments: the object, or one object after another: a recording is played while the camera goes round.
        path: of the film, .mp4.
        views: frames, at least one a moment.
        size: pixels per side.
        renderer: as for `render`.
    """
    import av

    views = max(views, len(moments))
    largest = max(moments, key=reach_of)
    place = largest.xyz.device
    c2w, intrinsics = (t.to(place) for t in camera_tensors(filled_by(largest, turntable(views, 20.0, size))))
    with written_aside(path) as temporary, av.open(str(temporary), "w", format="mp4") as film:
        stream = film.add_stream("libx264", rate=30, options={"crf": "18"})
        stream.width, stream.height, stream.pix_fmt = size, size, "yuv420p"
        for view in tracked(range(views), "film", views):
            now = moments[view * len(moments) // views]
            seen = render(now, c2w[view : view + 1], intrinsics[view : view + 1], size, size, renderer=renderer).images[0]
            picture = np.asarray(to_pil(seen.clamp(0, 1)))
            film.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        film.mux(stream.encode())


def save_turntable(gaussians: Gaussians, views: int, size: int, renderer: Renderer, out: Path) -> None:
    """Write `turntable.gif` and a strip `turntable.png` of the object seen from all around at elevation 20."""
    c2w, intrinsics = camera_tensors(filled_by(gaussians, turntable(views, 20.0, size)))
    place = gaussians.xyz.device
    with torch.no_grad():
        images = render(gaussians, c2w.to(place), intrinsics.to(place), size, size, renderer=renderer).images.clamp(0, 1)
    columns = min(6, views)
    save_grid(out / "turntable.png", [("3D model", row) for row in images[: columns * (views // columns)].split(columns)])
    frames = [to_pil(i, max(256, size)) for i in images]
    with written_aside(out / "turntable.gif") as temporary:
        frames[0].save(temporary, "GIF", save_all=True, append_images=frames[1:], duration=120, loop=0)
