"""Snakemake for real, each test with a run of its own: a base from the hub, Ctrl-C, several processes for GS-LRM."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from running import ROOT, snakemake
from safetensors.torch import load_file

from mvfl.layout import Reconstruction
from mvfl.records.base import BaseRecord

BIN = Path(sys.executable).parent
EXPERIMENT = "mouse_6x_aug"


def overlay(folder: Path, **settings: object) -> str:
    file = folder / "overlay.yaml"
    file.write_text(yaml.safe_dump(settings))
    return str(file)


def test_a_base_of_the_hub_is_fetched_in_the_main_process_and_its_commit_noted(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = tmp_path / "hub" / "models--lab--mouse" / "snapshots" / commit
    shutil.copytree(tiny_base.parent / "pipeline", snapshot / "mvdiffusion" / "pipeckpts")
    shutil.move(snapshot / "mvdiffusion" / "pipeckpts" / "gslrm", snapshot / "gslrm")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hub = {"kind": "hub", "repo": "lab/mouse", "revision": commit, "gslrm": "gslrm/gslrm.safetensors"}
    config = ("ci", overlay(tmp_path, bases={"remote": hub}, defaults={"base": "remote"}))
    text = snakemake("prompts", results=tmp_path / "results", config=config)
    assert "Fetching the files of base remote from the model hub" in text and "Checking base remote" in text
    record = BaseRecord.read(tmp_path / "results" / "base" / "remote" / "base.json")
    assert record.source["commit"] == commit and record.pipeline == (snapshot / "mvdiffusion" / "pipeckpts").resolve()
    hub["revision"] = "f" * 40
    text = snakemake(
        "prompts",
        results=tmp_path / "results",
        config=("ci", overlay(tmp_path, bases={"remote": hub}, defaults={"base": "remote"})),
        expect=1,
    )
    assert "could not be fetched" in text and "use a base of kind 'local'" in text


@pytest.mark.slow
def test_ctrl_c_saves_what_was_trained_and_the_next_run_goes_on(tmp_path: Path) -> None:
    steps = 90
    config = overlay(
        tmp_path, defaults={"training": {"steps": steps, "checkpoint_every": 1000, "batch_size": 1, "validate_every": 5000, "watch_steps": []}},
        evaluation={"step": steps}, experiments={"curriculum": {"evaluation_step": steps}},
    )  # fmt: skip
    command = [
        str(BIN / "snakemake"),
        "--profile",
        "profiles/local",
        "--nolock",
        "train",
        "--configfile",
        "configs/ci.yaml",
        config,
    ]
    command += ["--config", f"results={tmp_path / 'results'}"]
    state = tmp_path / "results" / "state" / EXPERIMENT / "mvdiffusion"
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 240
        while not ((state / "log.jsonl").is_file() and len((state / "log.jsonl").read_text().splitlines()) > 20):
            assert process.poll() is None and time.monotonic() < deadline, "the training did not begin"
            time.sleep(0.2)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        assert process.wait(120) != 0
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    saved = sorted((state / "states").glob("step-*.pt"))
    assert saved and 0 < int(saved[-1].stem.removeprefix("step-")) < steps, "saved at the step that it had reached"
    log = (tmp_path / "results" / "logs" / "train_mvdiffusion" / f"{EXPERIMENT}-{steps}.log").read_text()
    assert "received SIGINT" in log and "run again to go on" in log
    snakemake("train", results=tmp_path / "results", config=("ci", config))
    log = (tmp_path / "results" / "logs" / "train_mvdiffusion" / f"{EXPERIMENT}-{steps}.log").read_text()
    assert f"Resuming at step {int(saved[-1].stem.removeprefix('step-'))}" in log


@pytest.mark.slow
def test_gslrm_asked_for_two_cards_runs_as_two_processes_with_the_same_result(tmp_path: Path) -> None:
    config = ("ci", overlay(tmp_path, defaults={"gslrm": {"inputs": "real", "batch_size": 2, "steps": 2}}))
    weights = Reconstruction(tmp_path / "results" / "experiments" / EXPERIMENT / "gslrm").weights
    snakemake("gslrm", results=tmp_path / "results", config=config)
    one = load_file(weights)
    two_cards = ("--set-resources", "finetune_gslrm:gpu=2")
    assert "Nothing to be done" in snakemake("-n", "gslrm", *two_cards, results=tmp_path / "results", config=config)
    snakemake("gslrm", *two_cards, "--forcerun", "gslrm", results=tmp_path / "results", config=config)
    log = (tmp_path / "results" / "logs" / "finetune_gslrm" / f"{EXPERIMENT}.log").read_text()
    assert "Starting at step 0, 2 processes" in log
    two = load_file(weights)
    assert max(float((one[k] - two[k]).abs().max()) for k in one) < 1e-6
