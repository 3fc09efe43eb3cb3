"""The embedded animal: deterministic, inside the frame, and consistent with its cameras."""

from __future__ import annotations

import numpy as np
import pytest

from mvfl.data.rodent.sampling import load_rodent, make_sample
from mvfl.geometry.rig import load_rig


@pytest.fixture(scope="module")
def cameras():
    return load_rig("ring60", 96).cameras


def test_the_seed_decides_everything(cameras) -> None:
    a, b, c = (make_sample(seed, cameras) for seed in ((1, 2), (1, 2), (1, 3)))
    assert np.array_equal(a.pictures, b.pictures)
    assert not np.array_equal(a.pictures, c.pictures)


@pytest.mark.parametrize("pose", ["stand", "rear", "groom", "turn"])
def test_every_skin_vertex_projects_into_the_silhouette(cameras, pose: str) -> None:
    sample = make_sample((7, 1), cameras, poses=[pose], fill=0.7)
    skin = sample.vertices[: np.flatnonzero(load_rodent().is_eye)[0]]
    for camera, picture in zip(cameras, sample.pictures, strict=True):
        column, row, depth = camera.project(skin).T
        assert (depth > 0).all()
        near = np.zeros((96, 96), bool)
        solid = np.pad(picture[..., 3] > 0, 1)
        for dy in (0, 1, 2):
            for dx in (0, 1, 2):
                near |= solid[dy : dy + 96, dx : dx + 96]
        assert near[row.astype(int), column.astype(int)].mean() > 0.999


def test_the_animal_stays_off_the_border_and_colour_is_zero_outside(cameras) -> None:
    for index in range(5):
        pictures = make_sample((3, index), cameras, fill=0.75).pictures
        alpha = pictures[..., 3]
        assert not alpha[:, [0, -1]].any() and not alpha[:, :, [0, -1]].any()
        assert not pictures[alpha == 0][:, :3].any()
        assert 0.03 < (alpha > 127).mean() < 0.3


def test_coats_and_poses_can_be_chosen(cameras) -> None:
    meta = make_sample((1, 1), cameras[:1], coats=["grey"], poses=["groom"]).meta
    assert (meta["coat"], meta["pose"]) == ("grey", "groom")
