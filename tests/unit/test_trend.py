"""Where the training loss is going."""

from __future__ import annotations

import pytest
import torch

from mvfl.verdict.trend import loss_trend


@pytest.mark.parametrize(("slope", "state"), [(-1e-4, "falling"), (0.0, "plateau"), (1e-4, "rising")])
def test_the_loss_trend_has_a_direction(slope: float, state: str) -> None:
    g = torch.Generator().manual_seed(1)
    log = [{"step": s, "train/loss": 0.2 + slope * s + 0.004 * float(torch.randn((), generator=g))} for s in range(10, 1000, 10)]
    assert loss_trend(log).state == state


def test_a_nan_in_the_log_is_broken_and_an_outlier_is_not() -> None:
    log = [{"step": s, "train/loss": 0.3 - 1e-4 * s} for s in range(0, 1000, 10)]
    assert loss_trend([*log, {"step": 1000, "train/loss": None}]).state == "broken"
    log[50] = {"step": 500, "train/loss": 40.0}
    assert loss_trend(log).state == "falling"


def test_a_skipped_step_of_fp16_is_no_broken_run() -> None:
    log: list[dict[str, float | None]] = [{"step": s, "train/loss": 0.3 - 1e-4 * s} for s in range(0, 1000, 10)]
    log[60] = log[95] = {"step": 600, "train/loss": None}
    assert loss_trend(log).state == "falling"


def test_of_few_steps_nothing_is_said() -> None:
    assert loss_trend([{"step": 10 * i, "train/loss": 0.5**i} for i in range(4)]).state == "unknown"


def test_a_loss_that_jumps_to_and_fro_is_oscillating() -> None:
    log = [{"step": s, "train/loss": 0.3 + 0.1 * (-1) ** (s // 10)} for s in range(10, 1000, 10)]
    assert loss_trend(log).state == "oscillating"


def test_a_lost_log_is_no_nan_and_decides_nothing() -> None:
    assert loss_trend([]).state == "unknown"
    assert loss_trend([{"step": 10, "val/psnr": 9.0}]).state == "unknown"
