"""One sample of the rodent data set: posture, coat, place, cameras, pictures. A seed decides all of it."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mvfl.data.rodent.body import Rodent
from mvfl.data.rodent.pose import sample_pose
from mvfl.data.rodent.renderer import COAT_COLOURS, Light, Renderer
from mvfl.data.rodent.skeleton import axis_rotations
from mvfl.geometry.cameras import Camera

ASSETS = Path(__file__).parent / "assets"
# Probabilities of the full lists, renormalised over the ones asked for.
COAT_WEIGHTS = {"black": 0.35, "agouti": 0.25, "white": 0.2, "brown": 0.1, "grey": 0.1}
POSE_WEIGHTS = {"stand": 0.2, "walk": 0.2, "crouch": 0.15, "turn": 0.15, "sniff": 0.12, "rear": 0.1, "groom": 0.08}


@dataclass(frozen=True)
class RodentSample:
    """Pictures and ground truth of one posed animal.

    Attributes:
        pictures: RGBA uint8 [view, height, width, 4], straight alpha.
        vertices: skin in world units [n, 3].
        meta: seed, pose, coat, yaw, scale, offset, joint angles.
        cameras: those it was drawn from.
    """

    pictures: np.ndarray
    vertices: np.ndarray
    meta: dict[str, Any]
    cameras: list[Camera]


@dataclass(frozen=True)
class Lenses:
    """How large an animal is and how large each camera shows it.

    Attributes:
        length: longest side of the animal's box, tail included, in world units.
        shares: how far the animal reaches from the middle of each picture to its border.
    """

    length: float
    shares: list[float]


@functools.cache
def load_rodent() -> Rodent:
    """The animal from the packaged assets, read once per process."""
    return Rodent(ASSETS)


def _choice(rng: np.random.Generator, weights: dict[str, float], allowed: Sequence[str]) -> str:
    names = [n for n in weights if n in allowed]
    p = np.array([weights[n] for n in names])
    return str(rng.choice(names, p=p / p.sum()))


def make_sample(
    seed: Sequence[int],
    cameras: Sequence[Camera],
    coats: Sequence[str] = tuple(COAT_WEIGHTS),
    poses: Sequence[str] = tuple(POSE_WEIGHTS),
    fill: float = 0.6,
    fur_layers: int = 0,
    supersample: int = 2,
    frame_cameras: int | None = None,
    yaw: float | None = None,
    lenses: Lenses | None = None,
    light: Light | None = None,
) -> RodentSample:
    """Pose, place and draw one animal.

    Args:
        seed: integers that decide everything, for example (data seed, sample index).
        cameras: where to draw it from; the animal's centre is near the origin.
        coats, poses: allowed names.
        fill: share of the frame that the animal without the thin half of its tail spans in its widest view.
        fur_layers: hair shells above the skin.
        supersample: samples per pixel side.
        frame_cameras: how many of the first cameras decide the scale; default all.
        yaw: heading in degrees; drawn when left out.
        lenses: give the animal a length, and the cameras the focal lengths that show it as large as asked; `fill` is then not used.
        light: default: a lamp high above.
    """
    rodent = load_rodent()
    rng = np.random.default_rng(list(seed))
    coat = _choice(rng, COAT_WEIGHTS, coats)
    pose = _choice(rng, POSE_WEIGHTS, poses)
    q, torso, _ = sample_pose(rodent, rng, pose)
    rot, pos = rodent.skeleton.forward(q[None])
    vertices = rodent.skinned(rot[0], pos[0]) @ torso.T
    drawn_yaw = rng.uniform(0, 2 * math.pi)
    heading = drawn_yaw if yaw is None else math.radians(yaw)
    vertices = vertices @ axis_rotations(np.array([0, 0, 1.0]), np.array([heading]))[0].T
    vertices -= (vertices.min(0) + vertices.max(0)) / 2
    if lenses is not None:
        scale = lenses.length / float(np.ptp(vertices, axis=0).max())
        offset = np.append(rng.normal(0, 0.03, 2), rng.normal(0, 0.015)) * lenses.length
        vertices = vertices * scale + offset
        cameras = [_zoomed(c, vertices, share) for c, share in zip(cameras, lenses.shares, strict=True)]
    else:
        scale, offset = _fitted(rodent, vertices, cameras[:frame_cameras], fill, rng)
        vertices = vertices * scale + offset
    renderer = Renderer(rodent, vertices, scale, COAT_COLOURS[coat], int(rng.integers(2**31)), fur_layers, light)
    pictures = np.stack([renderer.view(c, supersample) for c in cameras])
    meta = {
        "seed": list(seed), "pose": pose, "coat": coat, "yaw_deg": math.degrees(heading), "scale": scale,
        "offset": offset.tolist(), "joint_angles": q.round(5).tolist(),
    }  # fmt: skip
    return RodentSample(pictures, vertices, meta, list(cameras))


def _fitted(
    rodent: Rodent, vertices: np.ndarray, cameras: Sequence[Camera], fill: float, rng: np.random.Generator
) -> tuple[float, np.ndarray]:
    """Scale and offset with which the animal fills its share of the frame."""
    # In the widest picture the bulk fills the wanted share and the whole stays within the frame.
    whole_limit = min(0.94, max(0.88, fill + 0.2))
    scale = 3.0
    for _ in range(4):
        shown = [c.project(vertices * scale)[:, :2] / c.width for c in cameras]
        widest = max(float(np.ptp(s[rodent.bulk], axis=0).max()) for s in shown)
        whole = max(float(2 * np.abs(s - 0.5).max()) for s in shown)
        scale *= min(fill / widest, whole_limit / whole)
    scale *= rng.uniform(0.93, 1.0)
    return scale, np.append(rng.normal(0, 0.02, 2), rng.normal(0, 0.01))


def _zoomed(camera: Camera, vertices: np.ndarray, share: float) -> Camera:
    """The camera with the focal length that makes the animal reach `share` of the way from the middle to the border."""
    seen = camera.project(vertices)[:, :2]
    widest = float(np.abs((seen - [camera.cx, camera.cy]) / camera.fx).max())
    focal = share * camera.width / 2 / widest
    return replace(camera, fx=focal, fy=focal)
