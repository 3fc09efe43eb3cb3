"""The page of a data set opens from disk alone and says what was found."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np

from mvfl.geometry.rig import load_rig
from mvfl.records.manifest import Manifest
from mvfl.records.recording import CameraNote, FrameNote, RecordingReport
from mvfl.stages.data_report import look, write_data_report


def test_a_page_holds_its_pictures_and_its_figures_lie_beside_it(tiny_data: Path, tmp_path: Path) -> None:
    manifest = Manifest.read(tiny_data)
    write_data_report(manifest, tmp_path, None)
    text, figures = (tmp_path / "report.html").read_text(), json.loads((tmp_path / "report.json").read_text())
    assert (
        "http://" not in text
        and "https://" not in text
        and all(s.startswith("data:image/png") for s in re.findall(r'<img src="([^"]{20})', text))
    )
    assert figures["samples"] == 6 and len(figures["cameras"]) == 6 and "No fault was found" in text
    assert all(0.05 < c["share"] < 0.6 and c["border"] >= 0 for c in figures["cameras"])


def recorded(manifest: Manifest) -> RecordingReport:
    note = CameraNote(
        name="top", azimuth=-70.0, elevation=83.0, distance=480.0, lens=[-0.3, 0, 0, 0, 0], focal_512=1400.0, zoom=0.4,
        recorded_pixels=9000.0, share=0.1, overlap=0.8, residual_px=3.0,
        misfit={"degrees": 1.2, "focal": 0.0, "delay": 0.0, "explained": 0.5, "residual": 3.0, "kind": "rotation"},
        warning="camera top is turned by 1.2 degrees against the others; calibrate it again or synchronise it.",
    )  # fmt: skip
    frames = [FrameNote(frame=i, centre=[float(i), 0.0, 20.0], error=2.0, overlaps=[0.8] * 6) for i in range(6)]
    return RecordingReport(
        name="mouse", scale=1 / 145, millimetres=145.0, cameras=[note] * 6, frames=frames, dropped={"7": "the mask of camera top is empty"},
        mean_reprojection_px=2.0, largest_angle_to_rig_deg=8.0, overlap=0.8, undecided=["all pictures are mirrored"], may_leave=0.0,
    )  # fmt: skip


def test_a_recordings_page_names_the_camera_to_look_at_and_what_cannot_be_told(tiny_data: Path, tmp_path: Path) -> None:
    manifest = Manifest.read(tiny_data)
    write_data_report(manifest, tmp_path, recorded(manifest))
    text = (tmp_path / "report.html").read_text()
    for sentence in ("turned by 1.2 degrees", "cannot tell whether", "all pictures are mirrored", "the mask of camera top is empty",
                     "undistorted"):  # fmt: skip
        assert sentence in text, sentence
    assert "No fault was found" not in text


def test_the_outline_of_the_others_holds_the_animal(tmp_path: Path) -> None:
    from mvfl.config.datasets import RodentDataset
    from mvfl.data.render import render_sample

    settings = RodentDataset(kind="rodent", image_size=128, train=1, val=1, seed=8)
    render_sample(settings, tmp_path, 0)
    manifest = Manifest("mouse", tmp_path, load_rig("ring60", 128), 128, ["sample_000000"], [], "")
    found = look(manifest, "sample_000000")
    for picture, outline in zip(found.pictures, found.others, strict=True):
        mask = picture[..., 3] > 127
        assert (mask & outline).sum() / mask.sum() > 0.85 and outline.sum() < 3 * mask.sum()
    assert np.mean(found.overlaps) > 0.7
