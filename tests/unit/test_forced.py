"""What `--forcerun` and `--forceall` set aside before any job begins."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from mvfl.config.load import load_with_base
from mvfl.stages.forced import Forced
from mvfl.stages.planning import Plan


def job(rule: str, **wildcards: str) -> SimpleNamespace:
    return SimpleNamespace(rule=SimpleNamespace(name=rule), wildcards=SimpleNamespace(**wildcards))


def forced(target: str, running: list[SimpleNamespace], **typed: Any) -> Forced:
    settings = SimpleNamespace(**{"forcerun": set(), "forcetargets": False, "targets": {target}, "forceall": False, **typed})
    dag = SimpleNamespace(jobs=[job(target), *running], needrun_jobs=lambda: running)
    workflow = SimpleNamespace(dag_settings=settings, dag=dag, touch=False)
    gather = SimpleNamespace(synthetic=lambda pattern: [pattern], reconstruct=lambda pattern: [pattern])
    return Forced(Plan(load_with_base([])), workflow, gather)


@pytest.mark.parametrize("typed", [{"forceall": True}, {"forcerun": {"train_mvdiffusion"}}])
def test_a_whole_run_begins_anew_in_the_experiments_behind_its_decisions_too(typed: dict[str, Any]) -> None:
    """Their jobs are added after the decision, when their states could not be set aside any more."""
    first = [job("train_mvdiffusion", experiment="mouse_6x_aug", step="2000")]
    whole, stage = forced("all", first, **typed), forced("train", first, **typed)
    cases = whole.plan.config.cases
    assert set(whole.may_run()) == {"mouse_6x_aug", *cases.values()} and stage.may_run() == ["mouse_6x_aug"]
    layout = whole.plan.layout
    assert {layout.state(name, "mvdiffusion") for name in ("mouse_6x_aug", *cases.values())} <= set(whole.states(whole.may_run()))


def test_a_run_with_nothing_to_do_sets_nothing_aside() -> None:
    assert forced("all", [], forceall=True).may_run() == []
