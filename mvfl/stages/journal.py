"""The guide's checklist as a table: when each verdict was reached, loss, scores, decision, what comes next."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from mvfl.records.decision import DecisionRecord
from mvfl.runtime.files import InputError, write_csv, write_text
from mvfl.runtime.progress import say
from mvfl.stages.jobs import JournalJob

COLUMNS = ("experiment", "step", "reached", "loss", "view_consistency", "gt_similarity", "decision", "overridden", "next")


def journal_rows(cases: dict[str, str], decisions: list[Path]) -> list[dict[str, Any]]:
    """One row per judged experiment, in order; a decision that cannot be read is named and left out."""
    rows: list[dict[str, Any]] = []
    for path in decisions:
        try:
            d = DecisionRecord.read(path)
        except InputError as error:
            say(f"Left out of the journal: {error}")
            continue
        reached = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(d.reached)) if d.reached else "unknown"
        values = (
            d.experiment, d.step, reached, round(d.loss, 5) if d.loss is not None else "NaN", d.computed.view_consistency,
            d.computed.gt_similarity, d.case, f"yes, computed {d.computed.case}" if d.overridden else "no",
            _next(d, cases, {row["experiment"] for row in rows} | {d.experiment}),
        )  # fmt: skip
        rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows


def _next(decision: DecisionRecord, cases: dict[str, str], tried: set[str]) -> str:
    if decision.case == "A":
        return "synthetic views, GS-LRM"
    follower = cases.get(decision.case)
    return "nothing" if follower is None else f"nothing: {follower} was tried" if follower in tried else follower


def run(job: JournalJob) -> None:
    """Write `journal.csv` and `journal.md`."""
    rows = journal_rows(job.cases, job.decisions)
    write_csv(job.table, rows, COLUMNS)
    lines = ["# Journal", "", "| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join(str(r[c]) for c in COLUMNS) + " |" for r in rows]
    write_text(job.page, "\n".join([*lines, "", job.ending]) + "\n")
