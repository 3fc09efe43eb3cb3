"""First contact with a cluster: every request of the profile is compared with what SLURM says it has."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mvfl.config.load import load_config
from mvfl.inspection.gpu_memory import card_gib, needs
from mvfl.inspection.slurm import check, first_minutes, minutes_of, probe, site_profile
from mvfl.runtime.files import InputError

PROFILE = Path(__file__).parents[2] / "profiles" / "slurm"


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cluster's commands: a short CPU partition, GPUs for at most eight hours, no accounting."""
    for name, lines in {
        "sbatch": "",
        "squeue": "",
        "scontrol": "",
        "sacct": "echo Slurm accounting storage is disabled >&2; exit 1",
        "sinfo": "printf 'short|1-00:00:00|(null)|64000+|up\\nvolta|8:00:00|gpu:v100:4|200000|up\\nold|infinite|gpu:k80:2|30000|down\\n'",
    }.items():
        file = tmp_path / "bin" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"#!/bin/sh\n{lines}\n")
        file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    return tmp_path


def needs_with(*overlays: str) -> dict[str, float]:
    """GiB by rule of the shipped experiments."""
    return needs(load_config([PROFILE.parents[1] / f for f in ("workflow_config.yaml", *overlays)]))


def findings(profile: Path = PROFILE) -> dict[str, tuple[bool, str]]:
    return {f.part: (f.good, f.text) for f in check(profile)}


def test_without_slurm_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (part, (good, text)), *more = findings().items()
    assert part == "commands" and not good and "login node" in text and not more


def test_what_the_profile_asks_in_vain_is_named_with_the_remedy(cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = findings()
    assert found["accounting"] == (False, "does not answer; the profile asks sacct: add `slurm-status-command: squeue` to it")
    assert found["train_mvdiffusion"] == (False, "partition 'gpu' does not exist; set MVFL_GPU_PARTITION to old or short or volta")
    monkeypatch.setenv("MVFL_GPU_PARTITION", "volta")
    monkeypatch.setenv("MVFL_CPU_PARTITION", "short")
    found = findings()
    assert found["other rules"] == (True, "short, 60 min")
    assert found["generate_synthetic"] == (True, "volta, 360 min, gpu:v100:4")
    assert found["train_mvdiffusion"][1] == "runtime 720 min is longer than volta allows (480): lower it in the profile"
    monkeypatch.setenv("MVFL_GPU_PARTITION", "short")
    assert "has no GPUs" in findings()["train_mvdiffusion"][1]
    monkeypatch.setenv("MVFL_GPU_PARTITION", "old")
    assert "takes no jobs now" in findings()["train_mvdiffusion"][1]


def test_a_card_that_is_too_small_for_the_experiments_is_named(cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MVFL_GPU_PARTITION", "volta")
    found = {f.part: f for f in check(PROFILE, {"train_mvdiffusion": 34.0, "finetune_gslrm": 10.0})}
    assert "needs a card of 34 GiB as configured, gpu:v100:4 have 16: lower batch_size" in found["train_mvdiffusion"].text
    assert "GiB" not in found["finetune_gslrm"].text
    assert [card_gib(c) for c in ("gpu:a100:4", "gpu:a100_80g:2", "gpu:nvidia_h100_80gb:8", "gpu:2")] == [40, 80, 80, None]


def test_what_the_shipped_experiments_need_is_what_was_measured() -> None:
    found = needs_with()
    assert found["train_mvdiffusion"] == pytest.approx(33.6 + 3.3, abs=0.5), "the gradients of four micro-batches add up"
    assert found["generate_synthetic"] == pytest.approx(16.3, abs=0.5)
    assert needs_with("configs/ci.yaml") == {}, "small bases fit"


@pytest.mark.parametrize(("overlay", "gib"), [("gpu_24gib", 22.5), ("gpu_48gib", 45.5)])
def test_overlays_for_smaller_cards_fit_them(overlay: str, gib: float) -> None:
    assert max(needs_with(f"configs/{overlay}.yaml").values()) < gib


def test_a_probe_runs_the_doctor_where_the_training_would_run(cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    submit = """for a; do case $a in --output=*) out=${a#*=};; --wrap=*) run=${a#*=};; --partition=*) echo $a > PARTITION;; esac; done
case $run in *" doctor"*) echo 'ok   gpu   0: a card' > $out;; esac"""
    (cluster / "bin" / "sbatch").write_text(f"#!/bin/sh\n{submit}\n")
    monkeypatch.setenv("MVFL_GPU_PARTITION", "volta")
    monkeypatch.chdir(cluster)
    assert list(probe(PROFILE, [])) == ["ok   gpu   0: a card"]
    assert (cluster / "PARTITION").read_text().strip() == "--partition=volta"
    (cluster / "bin" / "sbatch").write_text("#!/bin/sh\necho Invalid account >&2; exit 1\n")
    for left in (cluster / "logs" / "slurm").iterdir():
        left.unlink()
    with pytest.raises(InputError, match="probe on partition 'volta' did not run: Invalid account"):
        list(probe(PROFILE, []))


def test_a_profile_made_for_the_cluster_fits_it(cluster: Path) -> None:
    made = site_profile(PROFILE)
    (cluster / "config.yaml").write_text(yaml.safe_dump(made))
    assert (
        made["set-resources"]["train_mvdiffusion"] | {"slurm_partition": "volta", "runtime": 480}
        == made["set-resources"]["train_mvdiffusion"]
    )
    assert made["default-resources"]["slurm_partition"] == "short" and made["slurm-status-command"] == "squeue"
    assert all(good for good, _ in findings(cluster).values())


def test_limits_that_grow_with_each_attempt_are_compared_too(cluster: Path) -> None:
    made = site_profile(PROFILE)
    grown = made["set-resources"]["cache_latents"] | {"runtime": "600 * attempt"}
    (cluster / "config.yaml").write_text(yaml.safe_dump(made | {"set-resources": {"cache_latents": grown}}))
    assert "runtime 600 min is longer than volta allows (480)" in findings(cluster)["cache_latents"][1]
    assert made["set-resources"]["cache_latents"]["runtime"] == "min(240 * attempt, 480)", "the third attempt would not be let in"
    assert first_minutes("min(240 * attempt, 120)") == 120 and first_minutes(7) == 7 and first_minutes("?") is None


def test_a_silent_controller_is_named(cluster: Path) -> None:
    (cluster / "bin" / "sinfo").write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(InputError, match="controller is not reached"):
        findings()


@pytest.mark.parametrize(
    ("text", "minutes"), [("30:00", 30), ("12:00:00", 720), ("2-12:30:00", 3630), ("infinite", None), ("n/a", None)]
)
def test_time_limits_are_read_as_slurm_writes_them(text: str, minutes: int | None) -> None:
    assert minutes_of(text) == minutes
