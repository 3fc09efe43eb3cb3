"""Agreement of views with one body."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mvfl.geometry.rig import load_rig
from mvfl.metrics.consistency import view_consistency
from mvfl.verdict.scores import Truth


@pytest.mark.parametrize("size", [64, 128, 256])
def test_views_that_are_moved_apart_fit_one_body_the_worse(size: int) -> None:
    cameras = load_rig("ring60", size).cameras
    draws = np.random.default_rng(0)
    points = draws.normal(size=(60_000, 3))
    points *= draws.random((60_000, 1)) ** (1 / 3) / np.linalg.norm(points, axis=1, keepdims=True) * [0.5, 0.18, 0.17]

    def silhouettes(shift: float) -> torch.Tensor:
        pictures = np.ones((len(cameras), 3, size, size), np.float32)
        for picture, camera in zip(pictures, cameras, strict=True):
            column, row = (camera.project(points + shift * draws.normal(size=3))[:, i].astype(int) for i in (0, 1))
            picture[:, row, column] = 0
        return torch.from_numpy(pictures)

    known, little, much = (view_consistency(silhouettes(shift), cameras) for shift in (0.0, 0.03, 0.06))
    assert known > 0.9 and known - 0.02 > little > much + 0.02


def test_one_body_is_consistent_and_a_patchwork_is_not(tiny_truth: Truth) -> None:
    cameras = [tiny_truth.cameras[0][v] for v in tiny_truth.views[0]]
    real = view_consistency(tiny_truth.images[0], cameras)
    patchwork = tiny_truth.images[0].clone()
    patchwork[::2] = tiny_truth.images[2][::2]
    mixed = view_consistency(patchwork, cameras)
    assert real > 0.6 and mixed < 0.9 * real
