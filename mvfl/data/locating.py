"""First pass over a recording: where the animal is in each frame, how well its silhouettes fit, and which frames are unfit."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mvfl.config.datasets import MarkerlessDataset
from mvfl.data.evidence import LEAST_AREA, Moment, twins
from mvfl.data.masks import MaskSource, clean
from mvfl.data.silhouettes import Silhouette, carve_body, triangulated_centre
from mvfl.data.videos import ahead
from mvfl.geometry.lens import LensCamera
from mvfl.geometry.virtual import looking_at_origin, moved, triangulate
from mvfl.runtime.files import InputError
from mvfl.runtime.progress import Bar, say
from mvfl.runtime.reading import named_errors, parse_json

ANIMAL = 0.35  # of the picture's side: sqrt(area) of an animal in the pictures for which reprojection limits are meant


@dataclass(frozen=True)
class Located:
    """One usable frame.

    Attributes:
        frame: number in the videos.
        packed: the silhouettes, compressed.
        centre: the animal's centre in the calibration's units, Z up [3].
        error: mean reprojection error of the centre, in pixels of 512 in which the animal has its usual size.
        overlaps: of each silhouette with the body that all allow.
        leans: of the body's silhouettes, `Body.leans`.
        extents: tangent of the half angle that holds the animal, about the ray to its centre, per camera.
    """

    frame: int
    packed: list[dict[str, Any]]
    centre: np.ndarray
    error: float
    overlaps: list[float]
    leans: list[list[float]]
    extents: list[float]

    @property
    def silhouettes(self) -> list[Silhouette]:
        """The animal in each camera's picture."""
        return [unpack(entry) for entry in self.packed]


def pack(silhouette: Silhouette) -> dict[str, Any]:
    """A silhouette as JSON: some hundred bytes."""
    bits = base64.b85encode(zlib.compress(np.packbits(silhouette.bits).tobytes(), 6)).decode()
    return {"bits": bits, "shape": list(silhouette.bits.shape), "corner": list(silhouette.corner), "size": list(silhouette.size)}


def unpack(entry: dict[str, Any]) -> Silhouette:
    """The silhouette that `pack` wrote."""
    height, width = entry["shape"]
    packed = np.frombuffer(zlib.decompress(base64.b85decode(entry["bits"])), np.uint8)
    bits = np.unpackbits(packed, count=height * width).reshape(height, width).astype(bool)
    return Silhouette(bits, tuple(entry["corner"]), tuple(entry["size"]))


def locate(
    settings: MarkerlessDataset, masks: Sequence[MaskSource], cameras: Sequence[LensCamera], log: Path
) -> tuple[list[Located], dict[int, str]]:
    """Find the animal in every selected frame; go on after the frames that `log` holds already.

    Args:
        settings: which frames, and limits.
        masks: of each camera.
        cameras: Z up.
        log: gets one line per frame.

    Returns:
        Usable frames, and those left out with their reasons.

    Raises:
        InputError: two cameras show the same picture.
    """
    selected = settings.frames(masks[0].frames)
    known = _read_log(log, set(selected))
    if known:
        say(f"The animal was located in {len(known)} of {len(selected)} frames already.")
    wanted = set(selected) - known.keys()
    log.parent.mkdir(parents=True, exist_ok=True)
    streams = [ahead(_cleaned(m, wanted)) for m in masks]
    with Bar("locate the animal", len(selected), start=len(known)) as bar, open(log, "a", encoding="utf-8") as out:
        for row in zip(*streams, strict=True) if wanted else ():
            number = row[0][0]
            found = locate_moment(settings, number, [cleaned for _, cleaned in row], cameras)
            line = {"frame": number, "reason": found} if isinstance(found, str) else _to_json(found)
            out.write(json.dumps(line) + "\n")
            known[number] = found
            bar.update(len(known))
    order = sorted(known)
    located = [f for f in (known[n] for n in order) if isinstance(f, Located)]
    return located, {n: reason for n in order if isinstance(reason := known[n], str)}


def _cleaned(source: MaskSource, wanted: set[int]) -> Iterator[tuple[int, Silhouette | None]]:
    for number, mask in source.read(wanted):
        yield number, None if mask is None else clean(mask)


def locate_moment(
    settings: MarkerlessDataset, number: int, masks: Sequence[Silhouette | None], cameras: Sequence[LensCamera]
) -> Located | str:
    """The animal in one frame, or why the frame is unfit.

    Args:
        settings: limits.
        number: of the frame.
        masks: cleaned, one per camera; None: empty.
        cameras: Z up.

    Raises:
        InputError: two cameras show the same picture.
    """
    silhouettes = []
    for s, camera in zip(masks, cameras, strict=True):
        if s is None:
            return f"the mask of camera {camera.name} is empty"
        if s.touches_border():
            return f"the mask of camera {camera.name} touches the frame's border"
        if not np.isfinite(camera.undistorted(s.pixels)).all():
            return f"the animal lies where the lens of camera {camera.name} was not calibrated"
        silhouettes.append(s)
    if pair := twins(silhouettes):
        a, b = (cameras[v].name for v in pair)
        raise InputError(
            f"Frame {number}: the masks of cameras {a} and {b} are the same picture; name each camera's own files in "
            "datasets.<name>.masks and videos."
        )
    centre, errors = triangulated_centre(silhouettes, cameras)
    if any(c.camera.project(centre[None])[0, 2] <= 0 for c in cameras):
        return "the animal would lie behind a camera"
    sizes = [ANIMAL * 512 / np.sqrt(s.area) for s in silhouettes]
    error = float(np.mean(errors * sizes))
    if error > settings.max_reprojection_px:
        return f"the centre is reprojected with {error:.1f} px (allowed {settings.max_reprojection_px})"
    body = carve_body(silhouettes, cameras)
    if body.overlap < settings.min_silhouette_overlap and min(s.area for s in silhouettes) >= LEAST_AREA:
        return f"the silhouettes do not fit one body (overlap {body.overlap:.2f}, at least {settings.min_silhouette_overlap})"
    centre = framing_centre(silhouettes, cameras)
    extents = [_extent(s, c, centre, settings.may_leave) for s, c in zip(silhouettes, cameras, strict=True)]
    return Located(
        number,
        [pack(s) for s in silhouettes],
        centre,
        error,
        body.overlaps.round(4).tolist(),
        body.leans.round(3).tolist(),
        extents,
    )


def framing_centre(silhouettes: Sequence[Silhouette], cameras: Sequence[LensCamera]) -> np.ndarray:
    """Where virtual cameras look: between the centre of mass, where the body is, and the middle of the outline with its tail."""
    pixels = []
    for silhouette, camera in zip(silhouettes, cameras, strict=True):
        seen = camera.undistorted(silhouette.pixels)
        mass = camera.undistorted(silhouette.centroid[None])[0]
        pixels.append((mass + (seen.min(0) + seen.max(0)) / 2) / 2)
    return triangulate([c.camera for c in cameras], np.array(pixels))[0]


def _extent(silhouette: Silhouette, camera: LensCamera, centre: np.ndarray, may_leave: float) -> float:
    """Largest |x/z| or |y/z| of the animal in the axes of a camera that looks at its centre; the outermost share may leave."""
    flat = camera.rays(silhouette.pixels)
    virtual = looking_at_origin(moved(camera.camera, centre, 1.0), 512)
    turn = virtual.w2c[:3, :3] @ camera.camera.w2c[:3, :3].T
    seen = np.concatenate([flat, np.ones((len(flat), 1))], 1) @ turn.T
    away = np.abs(seen[:, :2] / seen[:, 2:]).max(1)
    return float(np.quantile(away, 1 - may_leave))


def _to_json(found: Located) -> dict[str, Any]:
    return {**vars(found), "centre": found.centre.tolist()}


def _read_log(path: Path, selected: set[int]) -> dict[int, Located | str]:
    """What an interrupted run knew; a line that was cut off is done again."""
    known: dict[int, Located | str] = {}
    if not path.is_file():
        return known
    lines = path.read_bytes().split(b"\n")
    whole = b"".join(line + b"\n" for line in lines[:-1])
    with named_errors(path, "the list of located frames", "delete it; the frames are located again"):
        for line in lines[:-1]:
            entry = parse_json(line.decode())
            number = entry["frame"]
            if number in selected:
                values = {**entry, "centre": np.array(entry.get("centre"))}
                known[number] = entry["reason"] if "reason" in entry else Located(**values)
    path.write_bytes(whole)
    return known


def moment(found: Located, cameras: Sequence[LensCamera]) -> Moment:
    """A located frame for the checks of the whole recording."""
    return Moment(f"frame {found.frame}", found.silhouettes, cameras)
