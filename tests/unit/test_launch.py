"""Several GPUs and nodes: the launcher's command line, and the SLURM profile's resources."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mvfl.runtime.files import InputError
from mvfl.runtime.launch import accelerate_command, launch_on_node, launch_prefix

PROFILE = yaml.safe_load((Path(__file__).parents[2] / "profiles/slurm/config.yaml").read_text())
RESUMABLE = {"train_mvdiffusion", "generate_synthetic", "finetune_gslrm", "reconstruct_samples"}
GPU_RULES = {
    "judge_zero_shot", "cache_latents", "train_mvdiffusion", "score_checkpoint", "generate_synthetic", "finetune_gslrm",
    "reconstruct_samples",
}  # fmt: skip


def test_two_nodes_of_four_gpus_are_one_run_of_eight_processes() -> None:
    command = " ".join(accelerate_command(4, nodes=2, rank=1, address="10.0.0.1", port=20007))
    assert "--num_machines 2 --num_processes 8 --machine_rank 1 --main_process_ip 10.0.0.1" in command
    assert "--main_process_port 20007" in command
    assert "--num_machines 1 --num_processes 4 --main_process_port 0" in " ".join(accelerate_command(4))


def test_only_a_rule_with_several_gpus_or_nodes_is_launched() -> None:
    """A launcher would swallow the signals and the exit status of a single process."""
    assert launch_prefix({"gpu": 1}, 8) == launch_prefix({}, 8) == ""
    assert launch_prefix({"gpu": 4}, 8) == " ".join(accelerate_command(4))
    assert (
        launch_prefix({"gpu": 0, "gres": "gpu:4"}, 8)
        == launch_prefix({"gres": "lustre:1,gpu:a100:4"}, 8)
        == launch_prefix({"gpu": 4}, 8)
    )
    assert launch_prefix({"gres": "gpu"}, 8) == launch_prefix({"gres": "gpu:1"}, 8) == ""
    with pytest.raises(InputError, match="does not say how many cards"):
        launch_prefix({"gres": "gpu:a100"}, 8)
    with pytest.raises(InputError, match="needs gres"):
        launch_prefix({"nodes": 2, "gpu": 4}, 8)
    nodes = launch_prefix({"nodes": 2, "tasks": 2, "mpi": "srun", "tasks_per_gpu": 0, "gres": "gpu:4"}, 8)
    assert nodes.startswith("srun --nodes=2 --ntasks=2 --ntasks-per-node=1 --gres=gpu:4 --cpus-per-task=8")
    assert nodes.endswith("mvfl launch --per-node 4")


def test_outside_srun_the_launcher_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_NNODES", raising=False)
    with pytest.raises(InputError, match="runs under srun with one task per node"):
        launch_on_node(1, ["true"])


def evaluated(expression: str, attempt: int) -> object:
    """A resource of the profile, evaluated as Snakemake does."""
    return eval(expression, {"attempt": attempt})


def test_gpu_stages_ask_for_a_gpu_and_for_the_same_time_at_each_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    resources = PROFILE["set-resources"]
    assert {rule for rule, r in resources.items() if r.get("gpu") == 1} == GPU_RULES
    for rule in GPU_RULES:
        if rule in RESUMABLE:
            assert isinstance(resources[rule]["runtime"], int), "a longer one could pend for ever"
        else:
            assert evaluated(resources[rule]["runtime"], 4) <= 16 * 60, "these begin anew, within a day's partition"
    monkeypatch.setenv("MVFL_GPU_PARTITION", "a100")
    monkeypatch.setenv("MVFL_ACCOUNT", "lab")
    assert {evaluated(resources[rule]["slurm_partition"], 1) for rule in GPU_RULES} == {"a100"}
    assert evaluated(PROFILE["default-resources"]["slurm_account"], 1) == "lab"
    assert evaluated(PROFILE["default-resources"]["slurm_partition"], 1) == "cpu"
