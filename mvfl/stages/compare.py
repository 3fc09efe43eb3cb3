"""Stage `compare`: several experiments side by side, as a page and as a table."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from mvfl.config.experiment import Experiment
from mvfl.layout import Checkpoint, Comparison, Reconstruction, Verdict
from mvfl.records.decision import DecisionRecord
from mvfl.records.provenance import Provenance
from mvfl.records.scores import ReconstructionScores, ViewScores
from mvfl.runtime.files import write_csv
from mvfl.runtime.progress import say
from mvfl.runtime.tracking import read_log
from mvfl.stages.jobs import CompareJob
from mvfl.stages.pages import inline, links, png, write_page

SCORES = (
    "case", "step", "right direction", "overlap (IoU)", "skill", "consistency", "PSNR (dB)", "loss", "3D PSNR (dB)", "3D overlap",
)  # fmt: skip
NAMES = ("description", "wandb_run")  # differ always and say nothing


def run(job: CompareJob) -> None:
    """Write `index.html` and `experiments.csv`.

    Raises:
        InputError: a result is missing or damaged.
    """
    out, differing = Comparison(job.out), _differing(job)
    three_d = {folder.parent.name: ReconstructionScores.read(Reconstruction(folder).metrics) for folder in job.reconstructions}
    rows, views = [], []
    for name, folder in zip(job.experiments, job.evaluations, strict=True):
        verdict = Verdict(folder)
        rows.append({"experiment": name, **_scores(verdict, three_d.get(name)), **differing[name]})
        views.append((name, inline(verdict.views)))
    settings = list(next(iter(differing.values())))
    write_csv(out.table, rows, ["experiment", *SCORES, *settings])
    best = {
        c: max(n) if (n := [r[c] for r in rows if isinstance(r[c], float)]) and c not in ("loss", "step") else None for c in SCORES
    }
    write_page(
        out.page, "compare", rows=rows, scores=SCORES, settings=settings, views=views, best=best, ending=job.ending,
        pages=links(out.page, job.pages), converged=job.converged, loss=inline(_plot_losses(job)),
    )  # fmt: skip
    say(f"{len(rows)} experiments: {out.page}")


def _scores(verdict: Verdict, three_d: ReconstructionScores | None) -> dict[str, Any]:
    """The columns of one experiment."""
    decision, scores = DecisionRecord.read(verdict.decision), ViewScores.read(verdict.metrics)
    m = scores.measurements
    case = f"{decision.case} (measured {decision.computed.case})" if decision.overridden else decision.case
    values: tuple[Any, ...] = (
        case, decision.step, round(m.slot_accuracy, 3), round(m.iou, 3), round(m.skill, 3), round(m.consistency, 3),
        round(scores.model["psnr"], 2), _loss(decision),
        round(three_d.mean["foreground_psnr"], 2) if three_d else "", round(three_d.mean["mask_iou"], 3) if three_d else "",
    )  # fmt: skip
    return dict(zip(SCORES, values, strict=True))


def _loss(decision: DecisionRecord) -> float | str:
    if decision.loss is None:
        return "NaN" if decision.loss_state == "broken" else ""
    return round(decision.loss, 5)


def _flat(table: dict[str, Any], where: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in table.items():
        out |= _flat(value, f"{where}{key}.") if isinstance(value, dict) else {f"{where}{key}": value}
    return out


def _made_with(job: CompareJob, number: int, experiment: Experiment) -> dict[str, Any]:
    """The settings that an experiment's scores were made with, which may not be those of the configuration any more."""
    table = experiment.model_dump(mode="json")
    table |= Provenance.read(Checkpoint(job.logs[number].parent).provenance).settings
    table |= Provenance.read(Verdict(job.evaluations[number]).provenance).settings["sampling"]
    shaped = next((f for f in job.reconstructions if f.parent == job.logs[number].parents[2]), None)  # of the same experiment
    if shaped is not None:
        table["gslrm"] = Provenance.read(Reconstruction(shaped).provenance).settings
    return {key: value for key, value in table.items() if key in Experiment.model_fields and key not in NAMES}


def _differing(job: CompareJob) -> dict[str, dict[str, Any]]:
    """Settings of each experiment that are not the same for all."""
    flat = {name: _flat(_made_with(job, number, e)) for number, (name, e) in enumerate(job.experiments.items())}
    keys = dict.fromkeys(key for table in flat.values() for key in table)
    chosen = [key for key in keys if len({str(table.get(key)) for table in flat.values()}) > 1]
    return {name: {key: table.get(key, "") for key in chosen} for name, table in flat.items()}


def _plot_losses(job: CompareJob) -> bytes:
    """Training loss of all experiments over optimiser steps, as PNG."""
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    axes = figure.subplots()
    for name, log in zip(job.experiments, job.logs, strict=True):
        points = [(row["step"], row["train/loss"]) for row in read_log(log) if row.get("train/loss") is not None]
        axes.plot(*zip(*points, strict=True), label=name, lw=1.5) if points else None
    axes.set(xlabel="optimiser step", ylabel="training loss")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    return png(figure)
