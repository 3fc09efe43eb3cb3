"""The guide's checklist as a table: when each verdict was reached, loss, scores, decision, what comes next."""

from __future__ import annotations

import csv
import io
import time
from pathlib import Path
from typing import Any

from mvfl.runtime.files import read_json, write_text

COLUMNS = ("experiment", "step", "reached", "loss", "view_consistency", "gt_similarity", "decision", "overridden", "next")


def journal_rows(cases: dict[str, str], decisions: list[Path]) -> list[dict[str, Any]]:
    """One row per judged experiment, in order."""
    rows = []
    for path in decisions:
        d = read_json(path, "run the `evaluate` target first")
        computed = d["computed"]
        after = "synthetic views, GS-LRM" if d["case"] == "A" else cases.get(d["case"], "nothing")
        reached = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(d["reached"])) if d["reached"] else "unknown"
        rows.append(
            dict(
                zip(
                    COLUMNS,
                    (
                        d["experiment"], d["step"], reached, round(d["loss"], 5) if d["loss"] is not None else "NaN",
                        computed["view_consistency"], computed["gt_similarity"], d["case"],
                        f"yes, computed {computed['case']}" if d["overridden"] else "no", after,
                    ),
                    strict=True,
                )
            )
        )  # fmt: skip
    return rows


def write_journal(cases: dict[str, str], decisions: list[Path], table: Path, page: Path) -> None:
    """Write `journal.csv` and `journal.md`."""
    rows = journal_rows(cases, decisions)
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows(rows)
    write_text(table, text.getvalue())
    lines = ["# Journal", "", "| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join(str(r[c]) for c in COLUMNS) + " |" for r in rows]
    write_text(page, "\n".join(lines) + "\n")
