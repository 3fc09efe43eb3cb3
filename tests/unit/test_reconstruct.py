"""One picture to a 3D model: what may be given, and how it is framed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mvfl.data.framing import Framing, framed, framing, read_picture, usual_framing
from mvfl.data.pictures import view_pictures
from mvfl.records.manifest import Manifest
from mvfl.runtime.files import InputError
from mvfl.stages.reconstruct import read_experiment


def disc(height: int, width: int, row: float, column: float, radius: float) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    alpha = ((y - row) ** 2 + (x - column) ** 2 < radius**2).float()
    return torch.stack([0.2 * alpha, 0.3 * alpha, 0.4 * alpha, alpha])


places = st.tuples(st.floats(0.4, 0.6), st.floats(0.4, 0.6))


@settings(max_examples=25, deadline=None)
@given(st.floats(10, 190), st.floats(10, 290), st.floats(8, 60), st.floats(0.15, 0.4), places)
def test_a_reframed_animal_has_the_wanted_size_and_place(
    row: float, column: float, radius: float, ratio: float, place: tuple[float, float]
) -> None:
    picture = disc(200, 300, row, column, radius)
    got = framing(((1 - framed(picture, 64, Framing(ratio, place))).mean(0) > 0.3).float())
    assert got.size_ratio == pytest.approx(ratio, abs=0.03)
    assert got.centre == pytest.approx(place, abs=0.015)


def test_a_kept_frame_is_the_picture_over_white() -> None:
    picture = disc(64, 64, 20, 40, 10)
    torch.testing.assert_close(framed(picture, 64, None), picture[:3] + 1 - picture[3:], atol=1e-5, rtol=0)
    with pytest.raises(InputError, match="300 x 200 pixels; it must be square, or use --reframe"):
        framed(disc(200, 300, 20, 40, 10), 64, None)


def test_without_alpha_the_animal_is_what_differs_from_white(tmp_path: Path) -> None:
    rgb = np.full((40, 40, 3), 255, np.uint8)
    rgb[10:20, 10:30] = 60
    Image.fromarray(rgb).save(tmp_path / "mouse.png")
    rgba = read_picture(tmp_path / "mouse.png")
    assert int(rgba[3].sum()) == 200 and framing(rgba[3]).size_ratio == pytest.approx((200 / 1600) ** 0.5)


@pytest.mark.parametrize(
    ("level", "message"), [(255, "shows no animal"), (90, "no alpha channel and no white background: cut the animal out")]
)
def test_pictures_without_an_animal_are_refused(tmp_path: Path, level: int, message: str) -> None:
    Image.fromarray(np.full((16, 16, 3), level, np.uint8)).save(tmp_path / "x.png")
    with pytest.raises(InputError, match=message):
        read_picture(tmp_path / "x.png")


def test_missing_and_damaged_pictures_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing.png does not exist"):
        read_picture(tmp_path / "nothing.png")
    (tmp_path / "half.png").write_bytes(b"\x89PNG")
    with pytest.raises(InputError, match=r"half.png cannot be read as a picture"):
        read_picture(tmp_path / "half.png")


def test_a_training_picture_cut_out_and_enlarged_gets_its_own_frame_back(tiny_manifest: Manifest) -> None:
    picture = view_pictures(tiny_manifest, tiny_manifest.train[1])[2]
    rows, columns = (picture[3] > 0).nonzero().T
    cut = picture[:, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    large = torch.nn.functional.interpolate(cut[None], scale_factor=3, mode="nearest")[0]
    own, usual = framing(picture[3]), usual_framing(tiny_manifest, large)
    assert usual.size_ratio == pytest.approx(own.size_ratio, rel=0.25)
    assert usual.centre == pytest.approx(own.centre, abs=0.12)


def test_an_unfinished_experiment_names_the_target_to_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="run the `synthetic` target first"):
        read_experiment(tmp_path)
