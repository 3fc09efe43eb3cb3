"""The page of a data set: where cameras and animal are, how well pictures fit cameras, what was left out, worst samples first."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from mvfl.data.pictures import read_rgba
from mvfl.data.silhouettes import Silhouette, carve_body
from mvfl.geometry.lens import LensCamera
from mvfl.records.manifest import Manifest, evenly
from mvfl.records.recording import RecordingReport
from mvfl.runtime.files import write_json
from mvfl.stages.pages import inline, png, write_page

matplotlib.use("Agg")
LOOKED_AT = 24  # samples whose pictures are read
SHOWN = 3  # of them, the worst fitting, and one that fits as most do
LEAST_SIDE = 64  # pixels; silhouettes of smaller pictures say little
TILE = 220
DROPPED_ROWS = 60


@dataclass(frozen=True)
class Looked:
    """One sample, read and compared with itself.

    Attributes:
        name: of the sample.
        pictures: RGBA per view.
        overlaps: of each view's silhouette with the body of all; empty where pictures are too small.
        shares: of the picture that the animal fills, per view.
        borders: free part of the side to the nearest border, per view.
        others: outline that the other cameras' body has in each view, a mask per view.
    """

    name: str
    pictures: list[np.ndarray]
    overlaps: list[float]
    shares: list[float]
    borders: list[float]
    others: list[np.ndarray]


def look(manifest: Manifest, name: str) -> Looked:
    """Read a sample's pictures and carve its body, once of all views and once without each."""
    sample, size = manifest.sample(name), manifest.image_size
    pictures = [read_rgba(f, size) for f in sample.files[: manifest.views]]
    masks = [p[..., 3] > 127 for p in pictures]
    cameras = [LensCamera(str(v), c.resized(size, size)) for v, c in enumerate(sample.cameras[: manifest.views])]
    silhouettes = [Silhouette.of(np.ascontiguousarray(m)) for m in masks]
    free = [min(*s.corner, size - s.corner[0] - s.bits.shape[1], size - s.corner[1] - s.bits.shape[0]) / size for s in silhouettes]
    overlaps: list[float] = []
    others: list[np.ndarray] = []
    if size >= LEAST_SIDE and len(cameras) > 2:
        overlaps = carve_body(silhouettes, cameras).overlaps.tolist()
        for view in range(len(cameras)):
            rest = [v for v in range(len(cameras)) if v != view]
            body = carve_body([silhouettes[v] for v in rest], [cameras[v] for v in rest])
            others.append(_drawn(body.points, body.voxel, cameras[view]))
    return Looked(name, pictures, overlaps, [float(m.mean()) for m in masks], free, others)


def _drawn(points: np.ndarray, voxel: float, camera: LensCamera) -> np.ndarray:
    """Silhouette of voxels in a whole picture."""
    out = np.zeros((camera.camera.height, camera.camera.width), np.uint8)
    seen = camera.camera.project(points) if len(points) else np.zeros((0, 3))
    inside = (seen[:, 2] > 0) & (seen[:, :2] >= 0).all(1) & (seen[:, :2] < out.shape[0]).all(1)
    column, row, depth = seen[inside].T
    out[row.astype(int), column.astype(int)] = 1
    reach = int(np.ceil(voxel * camera.camera.fx / np.median(depth))) if len(depth) else 1
    return cv2.morphologyEx(out, cv2.MORPH_CLOSE, np.ones((2 * reach + 1,) * 2, np.uint8)) > 0


def write_data_report(manifest: Manifest, out: Path, report: RecordingReport | None) -> None:
    """Write `report.html` and the figures on it as `report.json`.

    Args:
        manifest: of the data set.
        out: its folder.
        report: what was found about a recording; other data have none.
    """
    looked = [look(manifest, n) for n in evenly(manifest.names, LOOKED_AT)]
    names = [c.name for c in report.cameras] if report else [str(v) for v in range(manifest.views)]
    rows = _camera_rows(manifest, looked, names, report)
    ranked = sorted(looked, key=lambda found: float(np.mean(found.overlaps or [1])))
    shown = [*ranked[:SHOWN], ranked[len(ranked) // 2]] if ranked[0].overlaps else evenly(looked, SHOWN)
    figures = {
        "name": manifest.name, "samples": sum(len(block) for block in (manifest.train, manifest.val, manifest.test)),
        "train": len(manifest.train), "test": len(manifest.test), "val": len(manifest.val),
        "image_size": manifest.image_size, "millimetres": manifest.millimetres, "cameras": rows,
        "worst": [{"sample": f.name, "overlaps": f.overlaps} for f in ranked[:10]],
    }  # fmt: skip
    write_json(out / "report.json", figures)
    write_page(
        out / "report.html",
        "data",
        **figures,
        report=report,
        warnings=[c.warning for c in report.cameras if c.warning] if report else [],
        dropped=list(report.dropped.items())[:DROPPED_ROWS] if report else [],
        map=_plot_map(manifest, names, report),
        sizes=_plot_sizes(looked, names),
        tiles=[(f.name, f"{np.mean(f.overlaps):.2f}" if f.overlaps else "", _tiles(f)) for f in shown],
        compared=bool(ranked[0].overlaps),
    )


def _camera_rows(
    manifest: Manifest, looked: list[Looked], names: list[str], report: RecordingReport | None
) -> list[dict[str, Any]]:
    """What is known of each camera."""
    rows: list[dict[str, Any]] = []
    for view, (name, camera) in enumerate(zip(names, manifest.rig.cameras, strict=True)):
        azimuth, elevation, distance = camera.spherical
        note = report.cameras[view] if report else None
        rows.append(
            {
                "name": name, "azimuth": azimuth, "elevation": elevation, "distance": distance,
                "millimetres": distance * manifest.millimetres if manifest.millimetres else None,
                "focal_512": camera.fx * 512 / camera.width, "share": float(np.median([f.shares[view] for f in looked])),
                "border": float(min(f.borders[view] for f in looked)),
                "overlap": float(np.mean([f.overlaps[view] for f in looked])) if looked[0].overlaps else None,
                "lens": bool(note and note.lens), "zoom": note.zoom if note else None,
                "residual": note.residual_px if note else None, "misfit": note.misfit if note else None,
                "warning": note.warning if note else None,
            }
        )  # fmt: skip
    return rows


def _plot_map(manifest: Manifest, names: list[str], report: RecordingReport | None) -> str:
    """Cameras and the animal's way, from above and from the side."""
    figure = Figure(figsize=(10.5, 4.6), layout="constrained")
    above, side = figure.subplots(1, 2)
    places = np.array([c.position for c in manifest.rig.cameras])
    way, unit = np.zeros((1, 3)), "world units"
    if report:
        way = np.array([f.centre for f in report.frames])
        places, unit = places / report.scale + way.mean(0), "units of the calibration"
    for axes, (a, b), title in ((above, (0, 1), "from above"), (side, (0, 2), "from the side")):
        axes.plot(places[:, a], places[:, b], "s", color="#1c2733", markersize=7)
        for name, place in zip(names, places, strict=True):
            axes.annotate(name, place[[a, b]], xytext=(6, 6), textcoords="offset points", fontsize=9)
            axes.plot([place[a], way[:, a].mean()], [place[b], way[:, b].mean()], color="#dde3e9", linewidth=1, zorder=0)
        axes.scatter(way[:, a], way[:, b], c=np.arange(len(way)), s=9, cmap="viridis", zorder=3)
        axes.set_title(f"Cameras and the animal's way, {title}", fontsize=10)
        axes.set_xlabel(f"{'xyz'[a]} ({unit})")
        axes.set_ylabel("xyz"[b])
        axes.set_aspect("equal", "datalim")
    return inline(png(figure))


def _plot_sizes(looked: list[Looked], names: list[str]) -> str:
    """How large the animal is, and how near it comes to the border, per camera."""
    figure = Figure(figsize=(10.5, 2.8), layout="constrained")
    for axes, values, title in zip(
        figure.subplots(1, 2), ([f.shares for f in looked], [f.borders for f in looked]),
        ("share of the picture that the animal fills", "free margin, share of the side"), strict=True,
    ):  # fmt: skip
        axes.boxplot(np.array(values) * 100, tick_labels=names, whis=(0, 100))
        axes.set_title(f"{title} (%)", fontsize=10)
        axes.set_ylim(bottom=0)
    return inline(png(figure))


def _tiles(found: Looked) -> str:
    """The views of a sample, with the outline that the other cameras give in red."""
    tiles = []
    for view, picture in enumerate(found.pictures):
        alpha = picture[..., 3:].astype(np.float32) / 255
        shown: Any = (picture[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
        scale = TILE / shown.shape[0]
        shown = cv2.resize(shown, (TILE, TILE), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
        if found.others:
            outline = cv2.resize(found.others[view].astype(np.float32), (TILE, TILE), interpolation=cv2.INTER_LINEAR) > 0.5
            shown[cv2.morphologyEx(outline.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0] = (214, 40, 40)
        tiles.append(cv2.copyMakeBorder(shown, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=(221, 227, 233)))
    return inline(cv2.imencode(".png", np.concatenate(tiles, 1)[..., ::-1])[1].tobytes())
