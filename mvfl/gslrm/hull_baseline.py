"""The strongest 3D that needs no network: the visual hull of the input views, in the colours that they show."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mvfl.data.silhouettes import Body, Silhouette, carve_body
from mvfl.geometry.cameras import Camera
from mvfl.geometry.lens import LensCamera
from mvfl.gslrm.views import Views

ORIGIN = np.zeros(3)  # about which animals lie
ONE_LINE = 10.0  # degrees between two lines of sight that count as one


def cameras_of(views: Views) -> list[LensCamera]:
    """Cameras of posed pictures."""
    height, width = views.images.shape[-2:]
    out = []
    for number, (c2w, k) in enumerate(zip(views.c2w.double().cpu().numpy(), views.intrinsics.double().cpu().tolist(), strict=True)):
        out.append(LensCamera(str(number), Camera(width, height, k[0], k[1], k[2], k[3], np.linalg.inv(c2w))))
    return out


def hull_pictures(inputs: Views, targets: Views) -> Float[Tensor, "view 3 height width"]:
    """Pictures of the coloured hull from the target cameras, over white; blank where the inputs allow no body.

    Args:
        inputs: of one object, with masks.
        targets: whose cameras are drawn.
    """
    masks = (inputs.alphas[:, 0] > 0.5).cpu().numpy()
    blank = torch.ones_like(targets.images)
    if len(masks) < 2 or not all(m.any() for m in masks):
        return blank
    cameras = cameras_of(inputs)
    centre = ORIGIN if _along_one_line(cameras) else None
    body = carve_body([Silhouette.of(np.ascontiguousarray(m)) for m in masks], cameras, centre)
    if not len(body.points):
        return blank
    colours = _colours(body, inputs.images.permute(0, 2, 3, 1).cpu().numpy(), cameras)
    drawn = [_drawn(body, colours, camera) for camera in cameras_of(targets)]
    return torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).to(targets.images)


def _along_one_line(cameras: list[LensCamera]) -> bool:
    """Whether all cameras look along nearly one line, as two that face each other do: rays do not tell how far things are."""
    across = [np.eye(3) - np.outer(axis, axis) for axis in (c.camera.w2c[2, :3] for c in cameras)]
    return bool(np.linalg.eigvalsh(np.mean(across, 0))[0] < np.sin(np.radians(ONE_LINE / 2)) ** 2)


def _nearest(points: np.ndarray, camera: Camera, cell: int) -> tuple[np.ndarray, np.ndarray]:
    """Projection (column, row, depth) of each point, and the smallest depth in its cell of pixels."""
    seen = camera.project(points)
    columns = camera.width // cell + 1
    column, row = (np.clip(seen[:, i], 0, n - 1) // cell for i, n in ((0, camera.width), (1, camera.height)))
    place = (column + columns * row).astype(int)
    front = np.full(columns * (camera.height // cell + 1), np.inf)
    np.minimum.at(front, place, seen[:, 2])
    return seen, front[place]


def _colours(body: Body, pictures: np.ndarray, cameras: list[LensCamera]) -> np.ndarray:
    """Mean colour of each voxel over the views in which nothing of the body lies before it; the body's own mean elsewhere."""
    total, count = np.zeros((len(body.points), 3)), np.zeros(len(body.points))
    for picture, entry in zip(pictures, cameras, strict=True):
        camera = entry.camera
        pixels = max(1, round(body.voxel * camera.fx / np.median(camera.project(body.points)[:, 2])))
        seen, front = _nearest(body.points, camera, pixels)
        visible = seen[:, 2] <= front + 1.5 * body.voxel
        column = np.clip(seen[visible, 0].astype(int), 0, camera.width - 1)
        row = np.clip(seen[visible, 1].astype(int), 0, camera.height - 1)
        total[visible] += picture[row, column]
        count[visible] += 1
    known = count > 0
    colours = np.empty_like(total)
    colours[known] = total[known] / count[known, None]
    colours[~known] = colours[known].mean(0) if known.any() else 0.5
    return colours


def _drawn(body: Body, colours: np.ndarray, entry: LensCamera) -> np.ndarray:
    """The voxels as squares, far ones first."""
    camera = entry.camera
    out = np.ones((camera.height, camera.width, 3), np.float32)
    seen = camera.project(body.points)
    side = camera.fx * body.voxel / seen[:, 2] * 1.2
    for i in np.argsort(-seen[:, 2]):
        low = np.round(seen[i, :2] - side[i] / 2).astype(int)
        high = np.maximum(low + 1, np.round(seen[i, :2] + side[i] / 2).astype(int))
        out[max(0, low[1]) : max(0, high[1]), max(0, low[0]) : max(0, high[0])] = colours[i]
    return cv2.GaussianBlur(out, (3, 3), 0)
