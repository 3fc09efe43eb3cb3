"""`mvfl slurm check`: is this a cluster's login node, and will it take what the profile asks for? Asks SLURM, submits nothing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mvfl.config.load import read_yaml
from mvfl.inspection.base_check import Finding
from mvfl.runtime.files import InputError


class Partition(NamedTuple):
    """What SLURM says of a partition.

    Attributes:
        name: of the partition.
        minutes: its time limit; None where there is none.
        gpus: generic resources of its nodes that are GPUs, as `gpu:a100:4`.
        megabytes: largest memory of a node.
        up: whether it takes jobs.
    """

    name: str
    minutes: int | None
    gpus: list[str]
    megabytes: int
    up: bool


def ask(*command: str) -> str | None:
    """What a command of SLURM prints; None where it fails or is not there."""
    if shutil.which(command[0]) is None:
        return None
    done = subprocess.run(["timeout", "30", *command], capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else None


def minutes_of(limit: str) -> int | None:
    """Minutes of a time limit as SLURM writes it (`2-12:00:00`, `30:00`, `infinite`)."""
    found = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", limit)
    if not found:
        return None
    days, hours, minutes, _ = (int(part or 0) for part in found.groups())
    return (days * 24 + hours) * 60 + minutes


def partitions() -> list[Partition]:
    """All partitions, each once.

    Raises:
        InputError: `sinfo` does not answer.
    """
    text = ask("sinfo", "-h", "-o", "%R|%l|%G|%m|%a")
    if text is None:
        raise InputError("`sinfo` does not answer: SLURM's controller is not reached from here.")
    found: dict[str, Partition] = {}
    for name, limit, resources, memory, state in (line.split("|") for line in text.splitlines() if line.count("|") == 4):
        gpus = [r for r in resources.split(",") if r.startswith("gpu")]
        old = found.get(name, Partition(name, minutes_of(limit), [], 0, False))
        size = max(old.megabytes, int(re.sub(r"\D", "", memory) or 0))
        found[name] = Partition(name, old.minutes, sorted({*old.gpus, *gpus}), size, old.up or state == "up")
    return list(found.values())


def evaluated(value: Any) -> Any:
    """A resource of the profile; text is an expression, as for Snakemake, and the shipped one reads environment variables."""
    found = re.fullmatch(r"__import__\('os'\)\.environ\.get\('(\w+)', '([^']*)'\)", value) if isinstance(value, str) else None
    return os.environ.get(found[1], found[2]) if found else value


def check(profile: Path) -> Iterator[Finding]:
    """All findings, in the order in which they must be mended.

    Args:
        profile: folder of the profile, or its `config.yaml`.

    Raises:
        InputError: the profile cannot be read.
    """
    settings = read_yaml(profile / "config.yaml" if profile.is_dir() else profile)
    missing = [name for name in ("sbatch", "squeue", "sinfo", "scontrol") if shutil.which(name) is None]
    if missing:
        yield Finding(
            "commands", False, f"{', '.join(missing)} not found: run this on a login node of the cluster, or load its module"
        )
        return
    yield Finding("commands", True, "sbatch, squeue, sinfo, scontrol")
    known = {p.name: p for p in partitions()}
    yield Finding("partitions", bool(known), ", ".join(f"{p.name} ({_limit(p)})" for p in known.values()) or "none")
    yield from _accounting(settings)
    default = settings.get("default-resources") or {}
    yield from _request("other rules", dict(default), known)
    for rule, own in (settings.get("set-resources") or {}).items():
        yield from _request(rule, {**default, **own}, known)


def _limit(partition: Partition) -> str:
    return "no limit" if partition.minutes is None else f"{partition.minutes / 60:.0f} h"


def _accounting(settings: dict[Any, Any]) -> Iterator[Finding]:
    """Without accounting the executor must ask `squeue`."""
    works = ask("sacct", "-n", "-X", "-S", "now") is not None
    asks = str(settings.get("slurm-status-command", "sacct"))
    fits = works or asks == "squeue"
    text = f"{'works' if works else 'does not answer'}; the profile asks {asks}"
    yield Finding("accounting", fits, text if fits else f"{text}: add `slurm-status-command: squeue` to it")
    account = evaluated((settings.get("default-resources") or {}).get("slurm_account", ""))
    if account and works:
        mine = ask("sacctmgr", "-n", "-P", "show", "assoc", f"user={os.environ.get('USER', '')}", "format=account") or ""
        there = account in mine.split()
        have = ", ".join(sorted(set(mine.split()))) or "none that sacctmgr names"
        yield Finding("account", there, account if there else f"{account} is none of yours ({have}); set MVFL_ACCOUNT")


def _request(rule: str, wanted: dict[Any, Any], known: dict[str, Partition]) -> Iterator[Finding]:
    """Whether a partition takes a rule's jobs."""
    name = str(evaluated(wanted.get("slurm_partition", "")))
    names = " or ".join(sorted(known)) or "none"
    if name not in known:
        variable = "MVFL_GPU_PARTITION" if wanted.get("gpu") or wanted.get("gres") else "MVFL_CPU_PARTITION"
        yield Finding(rule, False, f"partition '{name}' does not exist; set {variable} to {names}")
        return
    partition, faults = known[name], []
    runtime, memory = wanted.get("runtime"), wanted.get("mem_mb")
    if isinstance(runtime, int) and partition.minutes is not None and runtime > partition.minutes:
        faults.append(f"runtime {runtime} min is longer than {name} allows ({partition.minutes}): lower it in the profile")
    if isinstance(memory, int) and memory > partition.megabytes:
        faults.append(f"mem_mb {memory} is more than any node of {name} has ({partition.megabytes})")
    if (wanted.get("gpu") or "gpu" in str(wanted.get("gres", ""))) and not partition.gpus:
        faults.append(f"{name} has no GPUs that SLURM counts (gres); set MVFL_GPU_PARTITION")
    if not partition.up:
        faults.append(f"{name} takes no jobs now")
    what = f"{name}, {runtime} min, {partition.gpus[0]}" if wanted.get("gpu") and partition.gpus else f"{name}, {runtime} min"
    yield Finding(rule, not faults, "; ".join(faults) or what)


def site_profile(source: Path) -> dict[Any, Any]:
    """The shipped profile for this cluster: partitions that exist, time limits that they allow, squeue where accounting is off.

    Args:
        source: folder of the profile to start from.

    Raises:
        InputError: SLURM does not answer, or no partition takes jobs.
    """
    settings, found = read_yaml(source / "config.yaml"), [p for p in partitions() if p.up]
    if not found:
        raise InputError("No partition of this cluster takes jobs now; ask its administrators.")
    longest = lambda those: max(those, key=lambda p: p.minutes or 10**9)  # noqa: E731
    with_gpus = longest([p for p in found if p.gpus] or found)
    without = longest([p for p in found if not p.gpus] or found)
    accounts = set(
        (ask("sacctmgr", "-n", "-P", "show", "assoc", f"user={os.environ.get('USER', '')}", "format=account") or "").split()
    )
    default = settings["default-resources"]
    default |= {"slurm_partition": without.name, "slurm_account": next(iter(accounts)) if len(accounts) == 1 else ""}
    if ask("sacct", "-n", "-X", "-S", "now") is None:
        settings["slurm-status-command"] = "squeue"
    for own in [default, *settings["set-resources"].values()]:
        partition = with_gpus if own.get("gpu") or "gpu" in str(own.get("gres", "")) else without
        if own is not default:
            own["slurm_partition"] = partition.name
        if partition.minutes is not None and isinstance(own.get("runtime"), int):
            own["runtime"] = min(own["runtime"], partition.minutes)
    return settings
