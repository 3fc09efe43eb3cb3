"""`mvfl benchmark real`: every camera is the input once and left out once, and no camera judges what it was shown for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mvfl.gslrm.views import load_views
from mvfl.records.benchmarked import RecordingBenchmark, mean_row
from mvfl.records.manifest import Manifest
from mvfl.runtime.files import InputError
from mvfl.stages.real_benchmark import from_one, from_others, prepared, run
from mvfl.stages.reconstructor import Reconstructor


def test_from_one_camera_all_others_judge(tiny_manifest: Manifest) -> None:
    frame = tiny_manifest.judging[0]
    recorded = load_views(tiny_manifest, frame, all_views=False).images
    judged = from_one(tiny_manifest, [frame], {})
    assert [j.camera for j in judged] == list(range(tiny_manifest.views))
    for j in judged:
        assert j.truth is not None
        others = [v for v in range(tiny_manifest.views) if v != j.camera]
        assert torch.equal(j.truth.images, recorded[others])
        assert torch.equal(j.pictures["copy"], recorded[j.camera].expand_as(j.truth.images))
        assert not torch.equal(j.pictures["nearest"], j.truth.images), "another moment's"


def test_from_all_others_the_camera_left_out_judges(tiny_manifest: Manifest) -> None:
    frame = tiny_manifest.judging[0]
    recorded = load_views(tiny_manifest, frame, all_views=False).images
    judged = from_others(tiny_manifest, [frame], {})
    assert [j.camera for j in judged] == list(range(tiny_manifest.views))
    for j in judged:
        assert j.truth is not None
        assert torch.equal(j.truth.images, recorded[[j.camera]])
        assert not torch.equal(j.pictures["copy"], j.truth.images), "the nearest of the others"


def test_the_page_and_the_figures_of_a_base(tiny_base: Path, tiny_data: Path, tmp_path: Path) -> None:
    manifest = Manifest.read(tiny_data)
    run(tiny_data, {"base": Reconstructor.load(tiny_base.parent / "pipeline", manifest.rig)}, 1, tmp_path)
    found = RecordingBenchmark.read(tmp_path / "metrics.json")
    assert list(found.from_one) == [f"view {v}" for v in range(manifest.views)]
    assert set(found.from_one["view 0"]) == {"base: 3D", "base: drawn", "copy", "nearest", "mean", "blank"}
    assert set(found.from_others["view 0"]) == {"base: 3D", "hull", "copy", "mean", "blank"}
    means = mean_row(found.from_others)
    assert means["hull"]["mask_iou"] > 0.5 > means["blank"]["mask_iou"] == 0
    page = (tmp_path / "index.html").read_text()
    assert "though weights were chosen by them" in page, "this data set keeps no test block"
    assert "left out: view 3" in page and "base: drawn" in page and page.count("data:image/png") == 2


def test_of_a_base_that_is_not_told_cameras_gslrm_alone_is_judged(tiny_base: Path, tiny_manifest: Manifest) -> None:
    model = Reconstructor.load(tiny_base.parent / "pipeline", tiny_manifest.rig)
    published = replace(model, choice=model.choice.model_copy(update={"reference": 0, "view_conditioning": "prompt"}))
    frames = tiny_manifest.judging[:1]
    assert not any("base" in kind for j in from_one(tiny_manifest, frames, {"base": published}) for kind in j.pictures)
    assert all("base: 3D" in j.pictures for j in from_others(tiny_manifest, frames, {"base": published}))


def test_a_model_of_another_picture_size_is_refused(tiny_base: Path, tiny_data: Path, tmp_path: Path) -> None:
    model = Reconstructor.load(tiny_base.parent / "pipeline", Manifest.read(tiny_data).rig)
    model.gslrm.config = model.gslrm.config.__class__(image_size=48)
    with pytest.raises(InputError, match="48 px"):
        run(tiny_data, {"base": model}, 1, tmp_path)


def test_what_is_no_recording_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder"):
        prepared(tmp_path / "nowhere", [Path("configs/real_mouse.yaml")], False)
    with pytest.raises(InputError, match="no recording"):
        prepared(tmp_path, [Path("configs/ci.yaml")], False)


def test_a_second_recording_does_not_replace_the_first_one_s_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = tmp_path / "mine.yaml"
    settings.write_text(Path("configs/real_mouse.yaml").read_text().replace("results/real_mouse", str(tmp_path / "results")))
    monkeypatch.setattr("mvfl.stages.real_benchmark._run_workflow", lambda *_: (_ for _ in ()).throw(InputError("ran")))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    for _ in range(2):
        with pytest.raises(InputError, match="ran"):
            prepared(tmp_path / "a", [settings], False)
    with pytest.raises(InputError, match="holds the benchmark of another recording"):
        prepared(tmp_path / "b", [settings], False)
