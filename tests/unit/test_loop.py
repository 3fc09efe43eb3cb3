"""The tail that both trainings share: nothing that is not finite is ever applied or saved."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mvfl.config.experiment import Training
from mvfl.config.gslrm import GslrmFinetuning, GslrmLosses
from mvfl.gslrm.batches import Batches, Supervised
from mvfl.gslrm.losses import LossValues
from mvfl.gslrm.training import GslrmTraining
from mvfl.mvdiffusion.training import MultiViewTraining
from mvfl.records.manifest import Manifest
from mvfl.runtime.fingerprint import Fingerprint
from mvfl.runtime.loop import Tail
from mvfl.runtime.tracking import Run
from mvfl.runtime.training_state import StopRequest, TrainingState

MARK = Fingerprint({}, {}, "code")
QUIET = Run("x", "gslrm", {}, mode="disabled")


def tail(folder: Path) -> Tail:
    return Tail(TrainingState(folder / "states", MARK), StopRequest(), 9, 3, lambda: {"x": torch.ones(1)}, "lower the rate")


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (math.inf, 1.0), (1.0, math.inf), (1.0, math.nan)])
def test_numbers_that_are_not_finite_end_the_run_with_the_remedy(loss: float, norm: float, tmp_path: Path) -> None:
    end = tail(tmp_path)
    end.require_finite(1, 1.0, 1.0)
    with pytest.raises(FloatingPointError, match=r"at step 4; the weights were not updated .* lower the rate\."):
        end.require_finite(4, loss, norm)


def test_states_are_saved_at_regular_steps_at_the_end_and_before_stopping(tmp_path: Path) -> None:
    end = tail(tmp_path)
    for step, stopping in ((1, False), (3, False), (4, True), (9, False)):
        end.save_if_due(step, stopping)
    assert end.state.steps() == [4, 9], "two are kept"


@pytest.mark.parametrize("warmup", [0, 5], ids=["clipped", "pointsdist warm-up without clipping"])
def test_an_infinite_gradient_of_gslrm_is_neither_applied_nor_saved(
    warmup: int, tiny_base: Path, tiny_manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = GslrmFinetuning(
        steps=3, batch_size=1, warmup_steps=0, mixed_precision="no", losses=GslrmLosses(), pointsdist_warmup_steps=warmup,
        checkpoint_every=1, target_views=2, inputs="real",
    )  # fmt: skip
    batches = Batches(settings, [Supervised(tiny_manifest, tiny_manifest, {n: n for n in tiny_manifest.train})])
    start = tiny_base.parent / "pipeline" / "gslrm" / "gslrm.safetensors"
    training = GslrmTraining(settings, start, batches, tmp_path, MARK, None)
    before = {k: v.clone() for k, v in training.model.state_dict().items()}

    def overflow(*_: object) -> LossValues:
        for parameter in training.model.parameters():
            parameter.grad = torch.full_like(parameter, math.inf)
        return LossValues(torch.ones(()), {})

    monkeypatch.setattr(training, "_compare", overflow)
    with pytest.raises(FloatingPointError, match=r"lower gslrm\.learning_rate"):
        training.run(QUIET)
    assert all(torch.equal(v, before[k]) for k, v in training.model.state_dict().items())
    assert training.state.steps() == []


@pytest.mark.parametrize("skipped", [True, False])
def test_the_average_does_not_move_on_steps_that_fp16_skips(skipped: bool, tmp_path: Path) -> None:
    network, moved = torch.nn.Linear(1, 1), []
    training = object.__new__(MultiViewTraining)
    training.t, training.step = Training(mixed_precision="fp16"), 0
    norm = math.inf if skipped else 1.0
    training.accelerator = SimpleNamespace(
        scaler=object(), clip_grad_norm_=lambda *_: torch.tensor(norm), optimizer_step_was_skipped=skipped
    )
    training.model = training.unet = network
    training.optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    training.ema = SimpleNamespace(step=lambda _: moved.append(1))
    training._update(torch.ones(1), tail(tmp_path))
    assert (len(moved), training.step) == (0 if skipped else 1, 1)
