"""Where the training loss is going."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class LossTrend:
    """Robust trend of the loss over the last steps.

    Attributes:
        last: median of the last tenth.
        slope_per_1000: Theil-Sen slope, relative to the median loss, per 1000 steps.
        low, high: 95 % bootstrap interval of the slope.
        state: `falling`, `plateau`, `rising` or `broken` (NaN).
    """

    last: float | None
    slope_per_1000: float | None
    low: float | None
    high: float | None
    state: str

    def to_json(self) -> dict[str, Any]:
        """As a dictionary."""
        return asdict(self)


def loss_trend(log: list[dict[str, Any]], window: int = 500) -> LossTrend:
    """Judge `train/loss` over the last `window` steps of a log."""
    rows = [r for r in log if "train/loss" in r]
    if not rows or any(r["train/loss"] is None for r in rows[-20:]):
        return LossTrend(None, None, None, None, "broken")
    end = rows[-1]["step"]
    points = np.array([(r["step"], r["train/loss"]) for r in rows if r["step"] > end - window])
    last = float(np.median(points[-max(1, len(points) // 10) :, 1]))
    if len(points) < 5:
        return LossTrend(last, None, None, None, "plateau")
    rng = np.random.default_rng(0)
    scale = 1000 / float(np.median(points[:, 1]))

    def slope(p: np.ndarray) -> float:
        i, j = np.triu_indices(len(p), 1)
        apart = p[j, 0] != p[i, 0]
        return float(np.median((p[j, 1] - p[i, 1])[apart] / (p[j, 0] - p[i, 0])[apart])) * scale

    draws = [slope(points[np.sort(rng.integers(len(points), size=len(points)))]) for _ in range(200)]
    low, high = np.quantile(draws, [0.025, 0.975])
    state = "falling" if high < 0 else "rising" if low > 0 else "plateau"
    return LossTrend(last, slope(points), float(low), float(high), state)
