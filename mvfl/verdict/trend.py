"""Where the training loss is going."""

from __future__ import annotations

from typing import Any

import numpy as np

from mvfl.records.scores import LossTrend

OSCILLATION = 0.5


def loss_trend(log: list[dict[str, Any]], window: int = 500) -> LossTrend:
    """Judge `train/loss` over the last `window` steps of a log."""
    rows = [r for r in log if "train/loss" in r]
    if not rows:
        return LossTrend(None, None, None, None, None, "unknown")
    lost = [r["train/loss"] is None for r in rows[-20:]]  # fp16 skips a step now and then whose loss overflowed
    if lost[-1] or sum(lost) > len(lost) / 2:
        return LossTrend(None, None, None, None, None, "broken")
    end = rows[-1]["step"]
    points = np.array([(r["step"], r["train/loss"]) for r in rows if r["step"] > end - window and r["train/loss"] is not None])
    last = float(np.median(points[-max(1, len(points) // 10) :, 1]))
    if len(points) < 5:
        return LossTrend(last, None, None, None, None, "unknown")
    rng = np.random.default_rng(0)
    scale = 1000 / float(np.median(points[:, 1]))

    def slope(p: np.ndarray) -> float:
        i, j = np.triu_indices(len(p), 1)
        apart = p[j, 0] != p[i, 0]
        return float(np.median((p[j, 1] - p[i, 1])[apart] / (p[j, 0] - p[i, 0])[apart])) * scale

    draws = [slope(points[np.sort(rng.integers(len(points), size=len(points)))]) for _ in range(200)]
    low, high = np.quantile(draws, [0.025, 0.975])
    middle = slope(points)
    rest = points[:, 1] - middle / scale * points[:, 0]
    rest = np.clip(rest - np.median(rest), *np.quantile(rest - np.median(rest), [0.02, 0.98]))
    swing = float((rest[1:] * rest[:-1]).mean() / max(float((rest**2).mean()), 1e-12))
    # Noise of n points has an autocorrelation within about 2/sqrt(n) of 0.
    swings = swing < -max(OSCILLATION, 2 / len(points) ** 0.5)
    state = "falling" if high < 0 else "rising" if low > 0 else "oscillating" if swings else "plateau"
    return LossTrend(last, middle, float(low), float(high), swing, state)
