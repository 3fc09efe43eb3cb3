"""First contact with a cluster: every request of the profile is compared with what SLURM says it has."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mvfl.inspection.slurm import check, minutes_of, site_profile
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


def test_a_profile_made_for_the_cluster_fits_it(cluster: Path) -> None:
    made = site_profile(PROFILE)
    (cluster / "config.yaml").write_text(yaml.safe_dump(made))
    assert (
        made["set-resources"]["train_mvdiffusion"] | {"slurm_partition": "volta", "runtime": 480}
        == made["set-resources"]["train_mvdiffusion"]
    )
    assert made["default-resources"]["slurm_partition"] == "short" and made["slurm-status-command"] == "squeue"
    assert all(good for good, _ in findings(cluster).values())


def test_a_silent_controller_is_named(cluster: Path) -> None:
    (cluster / "bin" / "sinfo").write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(InputError, match="controller is not reached"):
        findings()


@pytest.mark.parametrize(
    ("text", "minutes"), [("30:00", 30), ("12:00:00", 720), ("2-12:30:00", 3630), ("infinite", None), ("n/a", None)]
)
def test_time_limits_are_read_as_slurm_writes_them(text: str, minutes: int | None) -> None:
    assert minutes_of(text) == minutes
