"""How jobs end and begin again: forced stages, lost results, spent time, mistakes, memory."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from running import ROOT, jobs, snakemake

from mvfl.config.load import load_config
from mvfl.inspection.stale import stale_results
from mvfl.inspection.why import Stage, why
from mvfl.runtime.endings import allowed_restarts, begin_note, forget_notes, growing, killed, note_beside, note_ending
from mvfl.runtime.tracking import read_attempts

BIN = Path(sys.executable).parent
EXPERIMENT = "mouse_6x_aug"


def again(finished: Path, *arguments: str) -> str:
    return snakemake(*arguments, results=finished, config=("ci", str(finished / "override.yaml")))


def begun(finished: Path, stage: str) -> list[int]:
    """Steps at which the attempts at a stage began."""
    return [a["step"] for a in read_attempts(finished / "state" / EXPERIMENT / stage) if a["event"] == "begun"]


def test_forced_stages_are_computed_again_from_their_start(finished: Path) -> None:
    folder = finished / "experiments" / EXPERIMENT
    weights = [folder / "mvdiffusion/checkpoint-4/unet/diffusion_pytorch_model.safetensors", folder / "gslrm/gslrm.safetensors"]
    before = [f.read_bytes() for f in weights]
    drawn = min(f.stat().st_mtime for f in (finished / "state" / EXPERIMENT / "synthetic").rglob("*.png"))
    again(finished, "--forcerun", "train", "gslrm", "generate_synthetic")
    assert begun(finished, "mvdiffusion") == begun(finished, "gslrm") == [0], (
        "the earlier attempts were set aside with their states"
    )
    assert (finished / "state" / EXPERIMENT / "gslrm" / "older" / "forced" / "attempts.jsonl").is_file()
    assert "Forced: computed anew from step 0" in (finished / "logs" / "finetune_gslrm" / f"{EXPERIMENT}.log").read_text()
    assert min(f.stat().st_mtime for f in (folder / "synthetic").rglob("*.png")) > drawn
    assert [f.read_bytes() for f in weights] == before, "the same settings, the same weights"


def test_lost_results_are_written_again_without_training(finished: Path) -> None:
    weights = finished / "experiments" / EXPERIMENT / "gslrm" / "gslrm.safetensors"
    before, attempts = weights.read_bytes(), len(begun(finished, "gslrm"))
    weights.unlink()
    again(finished, "gslrm")
    assert weights.read_bytes() == before
    log = (finished / "logs" / "finetune_gslrm" / f"{EXPERIMENT}.log").read_text()
    assert "is trained already: its results are written again" in log
    assert begun(finished, "gslrm")[attempts:] == [2], "nothing was left to train"


def test_the_number_of_jobs_that_draw_plans_nothing(finished: Path, tmp_path: Path) -> None:
    again(finished)
    assert "Nothing to be done" in again(finished, "-n", "--set-scatter", "synthetic=3")
    other = tmp_path / "other.yaml"
    other.write_text("defaults: {synthetic: {train: 1}}")
    files = ("ci", str(finished / "override.yaml"), str(other))
    changed = jobs(snakemake("-n", "--set-scatter", "synthetic=3", results=finished, config=files))
    assert {"generate_synthetic", "join_synthetic", "finetune_gslrm"} <= set(changed), "other views, in other pieces"


def test_results_without_snakemake_s_notes_are_compared_with_the_configuration(finished: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    for part in ("experiments/mouse_6x_aug/gslrm", "experiments/mouse_6x_aug/evaluation", "data", "base"):
        shutil.copytree(finished / part, moved / part)
    overlay = tmp_path / "here.yaml"

    def findings(**defaults: object) -> list[str]:
        overlay.write_text(yaml.safe_dump({"results": str(moved), "defaults": defaults}))
        config = load_config([ROOT / "workflow_config.yaml", ROOT / "configs/ci.yaml", overlay])
        return [f"{stale.rule}: {', '.join(stale.changed)}" for stale in stale_results(config)]

    assert findings() == []
    assert findings(gslrm={"learning_rate": 3e-5}, sampling={"steps": 9}, training={"log_every": 3}) == [
        "score_checkpoint: sampling.sampling.steps", "finetune_gslrm: learning_rate",
    ]  # fmt: skip


def test_the_report_of_snakemake_holds_the_results_with_captions(finished: Path, tmp_path: Path) -> None:
    again(finished, "--report", str(tmp_path / "report.zip"))
    with zipfile.ZipFile(tmp_path / "report.zip") as report:
        names = {Path(name).name for name in report.namelist()}
        page = report.read("report/report.html").decode()
    assert {"views.png", "loss.png", "turntable.gif", "renders.png", "index.html", "journal.csv"} <= names
    assert "from cameras that no input had" in page and "sampled views" in page


def test_prompts_are_judged_by_their_content(finished: Path) -> None:
    again(finished)
    plan = again(finished, "-n", "--forcerun", "prompts")
    assert "embed_prompts" in plan and "train_mvdiffusion" not in plan and "score_checkpoint" not in plan
    embeds = next((finished / "prompts").glob("*/mouse_elevated/clr_embeds.pt"))
    content = embeds.read_bytes()
    embeds.write_bytes(content)  # remade, and newer than all that was made of it
    assert "Nothing to be done" in again(finished, "-n")
    embeds.write_bytes(content + b"x")
    plan = again(finished, "-n")
    embeds.write_bytes(content)
    assert "train_mvdiffusion" in plan and "score_checkpoint" in plan


TAKE_A_VALUE = ("--profile", "--config", "--report", "--set-scatter", "--retries", "--cores", "-s", "-d")


def targets_of(command: str) -> set[str]:
    """Targets of a command line after `snakemake`."""
    words, files, targets = command.split(), False, set()
    for before, word in zip(["", *words], words, strict=False):
        if word.startswith("-"):
            files = word == "--configfile"
        elif re.fullmatch("[a-z_]+[a-z]", word) and before not in TAKE_A_VALUE:
            assert not files, f"`snakemake {command}`: {word} stands after --configfile and would be read as a file"
            targets.add(word)
    return targets


def test_every_documented_target_exists_and_can_be_planned(finished: Path) -> None:
    text = "\n".join(file.read_text() for file in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))])
    commands = re.findall(r"^snakemake ([^#\n]+)", text, re.M) + re.findall(r"`snakemake ([^`\n]+)`", text)
    targets = set().union(*map(targets_of, commands))
    assert {"data", "train", "gslrm", "case_b", "zero_shot", "compare"} <= targets
    # `sweep` needs one in the configuration, and the curriculum's GS-LRM follows a decision that this run has not.
    again(finished, "-n", *sorted(targets - {"sweep", "gslrm_curriculum"}))
    with pytest.raises(AssertionError, match="train stands after --configfile"):
        targets_of("--profile slurm data --configfile a.yaml train")


def test_the_plan_counts_with_the_speed_of_an_earlier_run_here(finished: Path, tmp_path: Path) -> None:
    overlay = tmp_path / "here.yaml"
    overlay.write_text(yaml.safe_dump({"results": str(finished)}))
    command = [str(BIN / "mvfl"), "plan", "configs/ci.yaml", str(overlay)]
    text = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "COLUMNS": "160"}, capture_output=True, text=True, check=True
    ).stdout
    (row,) = [line for line in text.splitlines() if line.split()[:1] == [EXPERIMENT]]
    assert "an earlier run" in row and "one H100" not in row
    assert all(f"{name}: verdict after" in text for name in (EXPERIMENT, "facelift_prompt", "realistic_prompt", "curriculum"))


def test_light_rules_run_without_torch(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a cluster they run on the head node, and torch alone takes seconds: here nothing can import it."""
    for library in ("torch", "diffusers", "transformers"):
        (tmp_path / library).mkdir()
        (tmp_path / library / "__init__.py").write_text("raise ImportError('torch is loaded')\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    blocked = subprocess.run([sys.executable, "-c", "import torch"], capture_output=True, text=True)
    assert "torch is loaded" in blocked.stderr
    for light in (["decide", "render_report", "write_journal"], ["join_synthetic"]):
        text = again(finished, "--forcerun", *light, "--until", *light)
        assert all(f"(Rule: {rule})" in text for rule in light), text[-2000:]
    monkeypatch.undo()
    again(finished)


@pytest.mark.parametrize("stage", ["train", "synthetic", "gslrm"])
def test_why_names_what_changed(stage: Stage, finished: Path, tmp_path: Path) -> None:
    overlay = tmp_path / "here.yaml"
    overlay.write_text(yaml.safe_dump({"results": str(finished)}))
    files = [ROOT / "workflow_config.yaml", ROOT / "configs/ci.yaml", finished / "override.yaml", overlay]
    assert why(load_config(files), EXPERIMENT, stage).startswith("Nothing that decides has changed")
    change = {
        "train": {"training": {"learning_rate": 1e-5}},
        "synthetic": {"sampling": {"steps": 3}},
        "gslrm": {"gslrm": {"seed": 5}},
    }[stage]
    overlay.write_text(yaml.safe_dump({"results": str(finished), "defaults": change}))
    assert re.search(
        r"Changed since .* settings\.[a-z_.]*(seed|steps|rate)\. The stage begins anew", why(load_config(files), EXPERIMENT, stage)
    )


def test_why_names_an_input_that_is_still_to_be_made(finished: Path, tmp_path: Path) -> None:
    overlay = tmp_path / "here.yaml"
    overlay.write_text(yaml.safe_dump({"results": str(finished), "defaults": {"training": {"seed": 5}}}))
    said = why(load_config([ROOT / "workflow_config.yaml", ROOT / "configs/ci.yaml", overlay]), EXPERIMENT, "train")
    assert "still to be made" in said and "latents" in said


def attempts_at_data(tmp_path: Path, script: str, retries: int) -> tuple[int, str]:
    """Run the data stage with another `mvfl` on PATH; how often it was called, and what Snakemake printed."""
    fake = tmp_path / "bin" / "mvfl"
    fake.parent.mkdir()
    fake.write_text(f'#!/bin/bash\necho x >> {tmp_path}/calls; n=$(wc -l < {tmp_path}/calls); log="${{@: -1}}"\n{script}\n')
    fake.chmod(0o755)
    command = [str(BIN / "snakemake"), "--profile", "profiles/local", "--nolock", "--retries", str(retries), "data"]
    command += ["--configfile", "configs/ci.yaml", "--config", f"results={tmp_path / 'results'}"]
    environment = {**os.environ, "PATH": f"{fake.parent}:{BIN}:{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    return len((tmp_path / "calls").read_text().splitlines()), done.stdout + done.stderr


@pytest.mark.parametrize(
    ("script", "retries", "calls"),
    [
        (f'[ $n -gt 2 ] && exec {BIN}/mvfl "$@"; echo time_spent 0 $n > "$log.ending"; exit 75', 0, 3),
        ('echo mistake 0 0 > "$log.ending"; exit 1', 3, 1),
        ('echo failed 0 0 > "$log.ending"; exit 1', 2, 3),
        ('echo running 0 0 > "$log.ending"; kill -9 $$', 1, 2),
    ],
    ids=["spent time is no failure", "a mistake stays one", "other failures are tried again", "so are killed jobs"],
)
def test_a_note_decides_whether_a_job_is_started_again(script: str, retries: int, calls: int, tmp_path: Path) -> None:
    found, text = attempts_at_data(tmp_path, script, retries)
    assert found == calls, text


def test_a_mistake_in_a_setting_is_noted_and_not_tried_again(tmp_path: Path) -> None:
    overlay = tmp_path / "nowhere.yaml"
    folder = {"kind": "folder", "path": "/nowhere", "rig": "ring60", "image_size": 32}
    overlay.write_text(yaml.safe_dump({"datasets": {"mine": folder}, "defaults": {"dataset": "mine"}}))
    results = tmp_path / "results"
    text = snakemake("--retries", "3", "data", results=results, config=("ci", str(overlay)), expect=1)
    assert "Trying to restart" not in text and text.count("Error: ") >= 1
    assert (results / "logs/prepare_dataset/mine.log.ending").read_text().startswith("mistake")


def test_kills_in_a_row_are_counted_and_forgotten_after_an_end_in_words(tmp_path: Path) -> None:
    log = tmp_path / "rule" / "a.log"
    memory, wildcards = growing(1000, str(tmp_path / "rule" / "{name}.log")), {"name": "a"}
    assert memory(wildcards, 2) == 1000
    for kills in range(3):
        begin_note(log)
        assert killed(note_beside(log)) == kills + 1 and memory(wildcards, 2) == 1000 * (kills + 2)
    assert memory(wildcards, 1) == 1000, "a new run begins with what the rule asks for"
    note_ending("done")
    assert killed(note_beside(log)) == 0 and allowed_restarts([str(log)], 3) == 3
    for spent in range(1, 4):
        begin_note(log)
        note_ending("time_spent")
        assert allowed_restarts([str(log)], 1) == 1 + spent and memory(wildcards, 2) == 1000, "no retry, no memory"
    begin_note(log)
    note_ending("mistake")
    assert allowed_restarts([str(log)], 3) == 0
    forget_notes(tmp_path)
    assert allowed_restarts([str(log)], 3) == 3
    begin_note(None)
