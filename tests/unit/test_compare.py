"""The comparison of experiments names the settings that made the scores, whatever stands in the configuration now."""

from __future__ import annotations

from pathlib import Path

from mvfl.config.experiment import Experiment, TrainingRun, ViewSampling
from mvfl.config.strict import part_of
from mvfl.runtime.provenance import write_provenance
from mvfl.stages.compare import _differing
from mvfl.stages.jobs import CompareJob
from mvfl.stages.pages import links


def experiment(rate: float, guidance: float) -> Experiment:
    return Experiment.model_validate(
        {"wandb_run": "x", "base": "b", "dataset": "d", "training": {"learning_rate": rate}, "sampling": {"guidance": guidance}}
    )


def test_addresses_of_pages_hold_whatever_a_folder_is_called(tmp_path: Path) -> None:
    page = tmp_path / "mouse #1 50%" / "index.html"
    page.parent.mkdir()
    page.touch()
    assert links(tmp_path / "index.html", {"it": page, "gone": tmp_path / "x"}) == {"it": "mouse%20%231%2050%25/index.html"}


def test_settings_are_those_of_the_run_that_was_judged(tmp_path: Path) -> None:
    made = {"one": experiment(1e-4, 2.0), "two": experiment(5e-5, 3.0)}
    for name, e in made.items():
        checkpoint, verdict, model = (tmp_path / name / part for part in ("mvdiffusion/checkpoint-2", "evaluation/step-2", "gslrm"))
        write_provenance(checkpoint, "train", {"step": 2, **part_of(e, TrainingRun).model_dump(mode="json")}, {})
        write_provenance(verdict, "score", {"sampling": part_of(e, ViewSampling).model_dump(mode="json")}, {})
        write_provenance(model, "gslrm", {**e.gslrm.model_dump(mode="json"), "steps": 7 if name == "one" else 8}, {})
    job = CompareJob(
        experiments={name: experiment(3e-4, 1.0) for name in made}, ending="", out=tmp_path / "out",
        evaluations=[tmp_path / name / "evaluation/step-2" for name in made],
        logs=[tmp_path / name / "mvdiffusion/checkpoint-2/log.jsonl" for name in made],
        reconstructions=[tmp_path / "one" / "gslrm", tmp_path / "two" / "gslrm"],
    )  # fmt: skip
    found = _differing(job)
    assert found == {
        "one": {"training.learning_rate": 1e-4, "sampling.guidance": 2.0, "gslrm.steps": 7},
        "two": {"training.learning_rate": 5e-5, "sampling.guidance": 3.0, "gslrm.steps": 8},
    }
