"""Starting one stage on several GPUs, on one node or on several nodes of a SLURM job."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from mvfl.runtime.files import InputError
from mvfl.runtime.progress import say

UNKNOWN = "<TBD>"  # what Snakemake passes for a resource before it is evaluated


def accelerate_command(per_node: int, nodes: int = 1, rank: int = 0, address: str | None = None, port: int = 0) -> list[str]:
    """`accelerate launch` in front of a command; precision and compilation are the experiment's settings, not the launcher's.

    Args:
        per_node: processes on each node, one per GPU.
        nodes: of the job.
        rank: of this node.
        address, port: where the first node listens; port 0 picks a free one on a single node.
    """
    command = ["accelerate", "launch", "--multi_gpu", "--num_machines", str(nodes), "--num_processes", str(nodes * per_node)]
    if nodes > 1:
        command += ["--machine_rank", str(rank), "--main_process_ip", str(address), "--rdzv_backend", "static"]
    return [*command, "--main_process_port", str(port), "--mixed_precision", "no", "--dynamo_backend", "no", "--no_python"]


def launch_prefix(resources: Mapping[str, Any], threads: int) -> str:
    """What stands before a training: nothing for one process, since a launcher would swallow signals and exit status.

    Cards are asked for by gpu: N or by gres: "gpu:N" ("gpu:a100:N"). Several nodes: nodes, tasks (the same number), mpi: srun,
    tasks_per_gpu: 0 and gres.

    Args:
        resources: of the rule, by name.
        threads: CPU cores per node.
    """
    nodes, gpus = int(resources.get("nodes", 1)), gpus_per_node(resources)
    if nodes > 1:
        if not resources.get("gres"):
            raise InputError('A run over several nodes needs gres: "gpu:N", the cards of each node.')
        return (
            f"srun --nodes={nodes} --ntasks={nodes} --ntasks-per-node=1 --gres={resources['gres']}"
            f" --cpus-per-task={threads} --kill-on-bad-exit=1 mvfl launch --per-node {gpus}"
        )
    return "" if gpus < 2 else " ".join(accelerate_command(gpus))


def gpus_per_node(resources: Mapping[str, Any]) -> int:
    """Cards that a rule asks for on each node: gres where it is given, else gpu.

    Raises:
        InputError: gres names no number of cards.
    """
    gres = str(resources.get("gres", ""))
    if not gres:
        return int(resources.get("gpu", 0))
    if gres == UNKNOWN:
        return 1
    parts = [part.split(":") for part in gres.split(",") if part.startswith("gpu")]
    if parts and len(parts[0]) == 1:
        return 1
    if not parts or not parts[0][-1].isdecimal():
        raise InputError(f'gres: "{gres}" does not say how many cards; write "gpu:N" or "gpu:MODEL:N".')
    return int(parts[0][-1])


def _ask(*command: str) -> str:
    done = subprocess.run(["timeout", "60", *command], capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"`{' '.join(command)}` failed: {done.stderr.strip()}; several nodes can only be used inside a SLURM job.")
    return done.stdout


def is_first_process() -> bool:
    """Whether this is the only process of its job, or the one of several that holds its lock and writes for all."""
    return os.environ.get("RANK", "0") == "0"


def requeue() -> bool:
    """Ask SLURM to start this job again under its id, with its whole time limit; False where it refuses.

    To Snakemake the job simply goes on: no failure, no retry used up. Only a job that Snakemake itself submitted is its own
    (`MVFL_OWN_JOB`, set by the rules): an allocation in which somebody runs a whole workflow must not be requeued.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if job is None or "MVFL_OWN_JOB" not in os.environ or not is_first_process():
        return False
    done = subprocess.run(["timeout", "60", "scontrol", "requeue", job], capture_output=True, text=True)
    say("SLURM starts this job again." if done.returncode == 0 else f"SLURM does not start it again: {done.stderr.strip()}")
    return done.returncode == 0


def launch_on_node(per_node: int, command: Sequence[str]) -> None:
    """Become this node's part of a run over all nodes of the SLURM step (one task per node); never returns.

    Raises:
        InputError: not inside `srun`, or SLURM does not answer.
    """
    try:
        nodes, rank, job = (int(os.environ[k]) for k in ("SLURM_NNODES", "SLURM_NODEID", "SLURM_JOB_ID"))
        names = os.environ["SLURM_JOB_NODELIST"]
    except KeyError as error:
        raise InputError(f"{error} is not set: `mvfl launch` runs under srun with one task per node.") from error
    head = _ask("scontrol", "show", "hostnames", names).split()[0]
    found = re.search(r"NodeAddr=(\S+)", _ask("scontrol", "show", "node", head))
    full = [*accelerate_command(per_node, nodes, rank, found[1] if found else head, 20000 + job % 20000), *command]
    os.execvp(full[0], full)
