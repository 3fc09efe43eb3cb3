"""What a step draws depends on the seed and the step alone."""

from __future__ import annotations

import numpy as np

from mvfl.runtime.randomness import batch_indices


def test_every_sample_is_seen_once_per_pass_whatever_the_batch() -> None:
    seen = np.concatenate([batch_indices(10, 4, step, 3) for step in range(5)])
    assert sorted(seen[:10]) == sorted(seen[10:20]) == list(range(10))
    assert not np.array_equal(seen[:10], seen[10:20])
    assert np.array_equal(batch_indices(10, 4, 3, 3), seen[12:16])
