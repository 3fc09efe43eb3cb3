"""A 3D model: what one picture, or several views, became; how it is seen, measured and saved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from mvfl.geometry.cameras import Camera
from mvfl.geometry.tensors import camera_tensors
from mvfl.gslrm.body import Body, carved, extent
from mvfl.gslrm.export import save_film, write_model
from mvfl.gslrm.formats import save_as
from mvfl.gslrm.gaussians import Gaussians
from mvfl.gslrm.rendering import render
from mvfl.metrics.image import mask_iou
from mvfl.metrics.pictures import save_grid, to_pil
from mvfl.stages.viewer_page import write_viewer


@dataclass(frozen=True)
class Model3D:
    """What one picture, or several views, became.

    Attributes:
        gaussians: of the animal, in the world of the cameras.
        views: that GS-LRM was given, RGB over white in 0..1.
        cameras: of the views, at the size of the pictures.
        reference: index of the view that was photographed; None: all were.
        photographed: of several photographed views, how many: those beyond were drawn; None: all were photographed.
        millimetres: in one world unit, where the cameras tell.
        elevation_margin: where several elevations of the camera were tried, by how much this one's agreement exceeds the others'.
    """

    gaussians: Gaussians
    views: Float[Tensor, "view 3 height width"]
    cameras: list[Camera]
    reference: int | None = None
    millimetres: float | None = None
    photographed: int | None = None
    elevation_margin: float | None = None

    @torch.no_grad()
    def render(self, cameras: Camera | Sequence[Camera]) -> Float[Tensor, "view 3 height width"]:
        """Pictures from any cameras, RGB over white in 0..1, on the CPU.

        Args:
            cameras: one, or several of one size; OpenCV axes, world-to-camera.
        """
        cameras = [cameras] if isinstance(cameras, Camera) else list(cameras)
        c2w, intrinsics = (t.to(self.gaussians.xyz.device) for t in camera_tensors(cameras))
        return render(self.gaussians, c2w, intrinsics, cameras[0].height, cameras[0].width).images.clamp(0, 1).cpu()

    @property
    def given(self) -> list[int]:
        """Indices of the views that were photographed."""
        return [self.reference] if self.reference is not None else list(range(self.photographed or len(self.views)))

    @cached_property
    def agreement(self) -> float:
        """Overlap (IoU) of the model's outline with the photographed one: low where the picture was not understood."""
        seen = self.given
        return float(mask_iou(self.render([self.cameras[v] for v in seen]), self.views[seen]).mean())

    @cached_property
    def extent(self) -> tuple[float, float, float]:
        """Length, width and height of the animal: of the 1st to the 99th per cent of the opacity.

        Along the horizontal main axis, across it, and upwards; in millimetres where the scale is known, else in world units.
        """
        length, width, height = (size * (self.millimetres or 1.0) for size in extent(self.gaussians))
        return length, width, height

    @cached_property
    def body(self) -> Body:
        """The closed body that the Gaussians enclose: volume, surface, embedding, mesh."""
        return carved(self.gaussians)

    def save(self, folder: Path, turntable_views: int = 12, film: bool = False, formats: tuple[str, ...] = ()) -> None:
        """Write `gaussians.ply`, `viewer.html`, `views/`, `views.png`, `turntable.gif` and `.png`.

        Args:
            folder: where to.
            turntable_views: pictures of the turntable.
            film: also `turntable.mp4`.
            formats: further files, of `mvfl.gslrm.formats.FORMATS`.
        """
        (folder / "views").mkdir(parents=True, exist_ok=True)
        for v, image in enumerate(self.views):
            to_pil(image).save(folder / "views" / f"cam_{v:03d}.png")
        given = self.given
        others = [v for v in range(len(self.views)) if v not in given]
        rows = [("your pictures" if len(given) > 1 else "your picture", self.views[given])]
        save_grid(folder / "views.png", rows + ([("sampled views", self.views[others])] if others else []))
        write_model(self.gaussians, turntable_views, self.views.shape[-1], "auto", folder)
        write_viewer(folder / "viewer.html", self.gaussians, f"3D model of {folder.name}")
        if film:
            save_film([self.gaussians], folder / "turntable.mp4")
        if formats:
            save_as(formats, self.gaussians, self.body, folder, millimetres=self.millimetres)
