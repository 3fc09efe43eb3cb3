"""Rendered animals before cameras of their own: other directions, distances and lenses in every sample, nothing cut off."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mvfl.config.datasets import RodentDataset
from mvfl.data.pictures import read_rgba
from mvfl.data.render import render_sample
from mvfl.geometry.rig import load_rig
from mvfl.records.samples import Sample, read_sample

SIZE = 48


def samples(folder: Path, count: int, **changes: object) -> list[Sample]:
    settings = RodentDataset.model_validate(
        {"kind": "rodent", "image_size": SIZE, "train": count, "val": 1, "extra_views": 1, **changes}
    )
    return [read_sample(folder / render_sample(settings, folder, i), 6) for i in range(count)]


def test_every_sample_has_cameras_of_its_own_in_the_rigs_order(tmp_path: Path) -> None:
    found, rig = samples(tmp_path, 4, any_rig=1.0), load_rig("ring60", SIZE)
    places = np.array([[c.spherical for c in s.cameras[:6]] for s in found])
    assert (places.std(0)[:, 1] > 5).all(), "elevations differ from sample to sample"
    assert all(rig.slot_order(0) == type(rig)("own", s.cameras[:6]).slot_order(0) for s in found)
    assert places[..., 2].mean() == pytest.approx(2.7, abs=1e-6)
    assert np.std([[c.fx for c in s.cameras] for s in found]) > 5, "lenses differ"


def test_the_animal_is_whole_and_large_whatever_the_cameras(tmp_path: Path) -> None:
    for sample in samples(tmp_path, 3, any_rig=1.0, varied_light=True):
        for file in sample.files:
            mask = read_rgba(file, SIZE)[..., 3] > 127
            assert mask.any() and not (mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any())
            rows, columns = np.nonzero(mask)
            assert max(np.ptp(rows), np.ptp(columns)) > 0.3 * SIZE


def test_shares_of_own_cameras_and_of_colourless_samples_are_kept(tmp_path: Path) -> None:
    plain = samples(tmp_path / "plain", 2)
    assert all(c.spherical[1] == pytest.approx(20) for s in plain for c in s.cameras[:6])
    grey = samples(tmp_path / "grey", 2, without_colour=1.0, coats=["brown"])
    for sample in grey:
        rgba = read_rgba(sample.files[0], SIZE)
        assert np.ptp(rgba[..., :3].astype(int), axis=-1).max() == 0
    colours = read_rgba(plain[0].files[0], SIZE)[..., :3].astype(int)
    assert np.ptp(colours, axis=-1).max() > 5
