"""Agreement of views with one body."""

from __future__ import annotations

from mvfl.metrics.consistency import view_consistency
from mvfl.verdict.scores import Truth


def test_one_body_is_consistent_and_a_patchwork_is_not(tiny_truth: Truth) -> None:
    cameras = [tiny_truth.cameras[0][v] for v in tiny_truth.views[0]]
    real = view_consistency(tiny_truth.images[0], cameras)
    patchwork = tiny_truth.images[0].clone()
    patchwork[::2] = tiny_truth.images[2][::2]
    mixed = view_consistency(patchwork, cameras)
    assert real > 0.6 and mixed < 0.9 * real
