"""One real recording as it is: raw videos, raw masks, lenses, names, no ring, a world that is not Z-up. Skips where it is not at hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mvfl.config.datasets import MarkerlessDataset
from mvfl.config.load import load_config
from mvfl.data.masks import read_mask
from mvfl.data.pictures import read_rgba
from mvfl.data.recording import prepare_recording
from mvfl.data.videos import read_frames

ROOT = Path(__file__).parents[2]
REAL = ROOT.parent / "shared" / "real-mouse"
pytestmark = pytest.mark.skipif(not REAL.is_dir(), reason=f"needs the recording in {REAL}")
NAMES = ["back", "mid", "side", "top"]


def settings(**changes: object) -> MarkerlessDataset:
    config = load_config([ROOT / "workflow_config.yaml", ROOT / "configs" / "real_mouse.yaml"])
    dataset = config.datasets["real_mouse"]
    assert isinstance(dataset, MarkerlessDataset)
    return dataset.model_copy(update={"folder": REAL, "every": 10, "gap": 0, "val_fraction": 0.1, "test_fraction": 0.1, **changes})


def test_it_becomes_samples_without_a_hand_laid_on_it(tmp_path: Path) -> None:
    manifest = prepare_recording("real_mouse", settings(), tmp_path / "out", 2)
    report = json.loads((tmp_path / "out" / "recording.json").read_text())
    assert (len(manifest.train), len(manifest.val), len(manifest.test)) == (10, 1, 1) and not report["dropped"], "all frames kept"
    assert [c["name"] for c in report["cameras"]] == NAMES and report["overlap"] > 0.75
    assert not any("do video_" in (c["warning"] or "") for c in report["cameras"])
    shares = []
    for name in [*manifest.train, *manifest.val, *manifest.test]:
        for file in manifest.sample(name).files:
            mask = read_rgba(file, 128)[..., 3] > 127
            assert not (mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any()), "none cut off"
            shares.append(mask.mean())
    assert np.median(shares) >= 0.09
    assert 100 < (manifest.millimetres or 0) < 200
    assert any("hardly moves" in sentence for sentence in report["undecided"]), "what it cannot tell is said"


def test_masks_made_of_its_videos_are_those_that_people_made(tmp_path: Path) -> None:
    """An animal that sits still on bright bedding: its own background, which a median cannot tell from the rest."""
    prepare_recording("real_mouse", settings(masks=None, every=30, val_fraction=0.3), tmp_path / "out", 2)
    overlaps = []
    for name in NAMES:
        given = dict(read_frames(REAL / f"mask_{name}.mp4", set(range(0, 120, 30)), "gray"))
        for file in sorted((tmp_path / "out" / "masks").glob(f"*/{name}/*.png")):
            made, wanted = read_mask(file) > 127, given[int(file.stem)] > 127
            overlaps.append((made & wanted).sum() / (made | wanted).sum())
    assert len(overlaps) == 16 and np.mean(overlaps) >= 0.85


def test_videos_that_do_not_belong_to_their_masks_are_named(tmp_path: Path) -> None:
    """Calibration and masks are right and agree: nothing else would see it."""
    for file in REAL.iterdir():
        (tmp_path / file.name).symlink_to(file)
    for name, other in (("back", "mid"), ("mid", "back")):
        (tmp_path / f"video_{name}.mp4").unlink()
        (tmp_path / f"video_{name}.mp4").symlink_to(REAL / f"video_{other}.mp4")
    prepare_recording("real_mouse", settings(folder=tmp_path), tmp_path / "out", 2)
    report = json.loads((tmp_path / "out" / "recording.json").read_text())
    named = {c["name"]: c["warning"] or "" for c in report["cameras"]}
    assert [name for name in NAMES if "do video_" in named[name]] == ["back", "mid"], named
