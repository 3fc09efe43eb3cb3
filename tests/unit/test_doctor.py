"""`mvfl doctor` finds what is missing before a job does."""

from __future__ import annotations

import importlib.metadata
import shutil
from pathlib import Path

import pytest

from mvfl.config.load import load_config
from mvfl.inspection.doctor import examine
from mvfl.layout import Layout
from mvfl.records.base import Fetched

ROOT = Path(__file__).parents[2]
MAIN = ROOT / "workflow_config.yaml"


def found(*overlays: Path) -> dict[str, tuple[bool, str]]:
    return {f.part: (f.good, f.text) for f in examine(load_config([MAIN, *overlays]))}


def test_the_demo_needs_nothing_that_is_not_here() -> None:
    findings = found(ROOT / "configs" / "demo.yaml")
    for part in ("python", "packages", "base embedded", "data grey_mouse"):
        assert findings[part][0], findings[part]


def test_recordings_that_are_not_there_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    findings = found()
    assert findings["data recording"] == (
        False,
        "0 videos fit recording/videos/{camera}.mp4; set datasets.recording.folder and videos",
    )
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(
        "datasets: {rec: {kind: markerless, calibration: cams.json, videos: 'v{camera}.mp4', masks: 'm{camera}.mp4', cameras: 2}}\n"
        "bases: {mine: {kind: local, path: nowhere}}\ndefaults: {dataset: rec, base: mine, gslrm: {input_views: 2}}\n"
    )
    findings = found(overlay)
    assert findings["data rec"] == (False, "missing: cams.json, v0.mp4, v1.mp4, m0.mp4, m1.mp4")
    assert findings["base mine"] == (False, "nowhere does not exist; set bases.mine.path")


def test_a_fetched_base_is_looked_at_where_it_was_fetched_to(tmp_path: Path, tiny_base: Path) -> None:
    overlay, pipeline = tmp_path / "here.yaml", tmp_path / "pipeline"
    overlay.write_text(f"results: {tmp_path}\n")
    shutil.copytree(tiny_base.parent / "pipeline", pipeline)
    gslrm = pipeline / "gslrm" / "gslrm.safetensors"
    fetched = Fetched(repo="wlyu/OpenFaceLift", revision="main", commit="f" * 40, pipeline=pipeline, gslrm=gslrm)
    fetched.write(Layout(tmp_path).fetched("openfacelift"))
    assert found(overlay)["base openfacelift"][0], found(overlay)["base openfacelift"]
    (pipeline / "vae" / "config.json").unlink()
    good, text = found(overlay)["base openfacelift"]
    assert not good and "vae" in text


def test_a_package_of_another_version_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version
    monkeypatch.setattr(
        "mvfl.inspection.doctor.importlib.metadata.version", lambda name: "0.1" if name == "diffusers" else real(name)
    )
    good, text = found(ROOT / "configs" / "demo.yaml")["packages"]
    assert not good and "diffusers 0.1, wanted" in text and "make setup" in text


def test_results_of_another_version_are_named_and_stop_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "results" / "experiments" / "mouse_6x_aug" / "evaluation" / "step-400"
    folder.mkdir(parents=True)
    (folder / "provenance.json").write_text('{"stage": "evaluate", "settings": {"old": 1}, "inputs": {}}')
    overlay = tmp_path / "here.yaml"
    overlay.write_text(f"results: {tmp_path / 'results'}\n")
    good, text = found(ROOT / "configs" / "demo.yaml", overlay)["results"]
    assert not good and "recorded by another version" in text and "--forcerun score_checkpoint" in text
