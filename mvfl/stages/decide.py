"""Stage `decide`: from measurements and limits to the case that the workflow follows. No pictures, no GPU."""

from __future__ import annotations

from mvfl.records.decision import DecisionRecord
from mvfl.records.scores import ViewScores
from mvfl.runtime.progress import say
from mvfl.stages.jobs import DecideJob
from mvfl.verdict.decision import MEANING, decide


def run(job: DecideJob) -> None:
    """Write what the workflow follows: a person's decision where there is one, beside the computed one.

    Raises:
        InputError: the measurements are missing or damaged.
    """
    scores = ViewScores.read(job.metrics)
    computed = decide(scores.measurements, job.thresholds)
    case = job.override or computed.case
    DecisionRecord(
        experiment=scores.experiment, step=scores.step, case=case, meaning=MEANING[case],
        overridden=case != computed.case, override=job.override, computed=computed, loss=scores.loss_trend.last,
        loss_state=scores.loss_trend.state, reached=scores.reached,
    ).write(job.out)  # fmt: skip
    say(f"Case {case}: {' '.join(computed.reasons)}")
