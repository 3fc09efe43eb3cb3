"""`mvfl slurm check`: is this a cluster's login node, and will it take what the profile asks for? Asks SLURM, submits nothing."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mvfl.config.load import read_yaml
from mvfl.inspection.base_check import Finding
from mvfl.inspection.gpu_memory import SMALLER, card_gib
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


def first_minutes(runtime: Any) -> int | None:
    """Minutes of a job's first attempt: 240, "240 * attempt", or that within a limit as `site_profile` writes it."""
    found = re.fullmatch(r"(?:min\()?(\d+) \* attempt(?:, (\d+)\))?", runtime) if isinstance(runtime, str) else None
    if found:
        return min(int(found[1]), int(found[2] or found[1]))
    return runtime if isinstance(runtime, int) else None


def check(profile: Path, memory: Mapping[str, float] | None = None) -> Iterator[Finding]:
    """All findings, in the order in which they must be mended.

    Args:
        profile: folder of the profile, or its `config.yaml`.
        memory: GiB of GPU memory that each rule needs.

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
        yield from _request(rule, {**default, **own}, known, (memory or {}).get(rule, 0.0))


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


def _request(rule: str, wanted: dict[Any, Any], known: dict[str, Partition], gib: float = 0.0) -> Iterator[Finding]:
    """Whether a partition takes a rule's jobs, and its cards have the memory."""
    name = str(evaluated(wanted.get("slurm_partition", "")))
    names = " or ".join(sorted(known)) or "none"
    if name not in known:
        variable = "MVFL_GPU_PARTITION" if wanted.get("gpu") or wanted.get("gres") else "MVFL_CPU_PARTITION"
        yield Finding(rule, False, f"partition '{name}' does not exist; set {variable} to {names}")
        return
    partition, faults = known[name], []
    runtime, memory = first_minutes(wanted.get("runtime")), wanted.get("mem_mb")
    if runtime is not None and partition.minutes is not None and runtime > partition.minutes:
        faults.append(f"runtime {runtime} min is longer than {name} allows ({partition.minutes}): lower it in the profile")
    if isinstance(memory, int) and memory > partition.megabytes:
        faults.append(f"mem_mb {memory} is more than any node of {name} has ({partition.megabytes})")
    if (wanted.get("gpu") or "gpu" in str(wanted.get("gres", ""))) and not partition.gpus:
        faults.append(f"{name} has no GPUs that SLURM counts (gres); set MVFL_GPU_PARTITION")
    if not partition.up:
        faults.append(f"{name} takes no jobs now")
    asks_cards = bool(wanted.get("gpu")) or "gpu" in str(wanted.get("gres", ""))
    cards = partition.gpus if asks_cards else []
    sizes = [size for card in cards if (size := card_gib(card)) is not None]
    if sizes and max(sizes) < gib:
        faults.append(f"needs a card of {gib:.0f} GiB as configured, {' and '.join(cards)} have {max(sizes)}: {SMALLER}")
    elif sizes and min(sizes) < gib and "gpu_model" not in wanted:
        faults.append(
            f"needs a card of {gib:.0f} GiB as configured, some of {' and '.join(cards)} have less: set gpu_model in the profile"
        )
    what = f"{name}, {runtime} min" + (f", {cards[0]}" if cards else "")
    unknown = ", its memory is not known: try --probe" if gib and cards and not sizes else ""
    yield Finding(rule, not faults, "; ".join(faults) or what + unknown)


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
        if partition.minutes is not None and (first := first_minutes(own.get("runtime"))) is not None:
            grows, limit = isinstance(own["runtime"], str), partition.minutes
            own["runtime"] = f"min({own['runtime']}, {limit})" if grows else min(first, limit)
    return settings


def probe(profile: Path, files: Sequence[Path]) -> Iterator[str]:
    """Run `mvfl doctor` for two minutes at most on a node that trains: its card, compiler, network, disk and files.

    Args:
        profile: folder of the profile; the request of its training rule is used.
        files: configuration and overlays for `mvfl doctor`.

    Yields:
        The lines that it printed there.

    Raises:
        InputError: the job was refused or failed; says what SLURM said.
    """
    settings = read_yaml(profile / "config.yaml" if profile.is_dir() else profile)
    wanted = {**(settings.get("default-resources") or {}), **(settings.get("set-resources") or {}).get("train_mvdiffusion", {})}
    partition, account = (str(evaluated(wanted.get(key, "")) or "") for key in ("slurm_partition", "slurm_account"))
    out = Path(f"logs/slurm/probe-{os.getpid()}.log").absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    doctor = shlex.join([sys.executable, "-m", "mvfl.cli.app", "doctor", *map(str, files)])
    command = ["sbatch", "--wait", "--time=2", "--mem=8000", f"--output={out}", "--job-name=mvfl-probe", f"--partition={partition}"]
    command += [f"--gres={wanted['gres']}"] if "gres" in wanted else ["--gpus=1"]
    command += [f"--account={account}"] if account else []
    done = subprocess.run([*command, f"--wrap={doctor}"], capture_output=True, text=True)
    lines = out.read_text(encoding="utf-8", errors="replace").splitlines() if out.is_file() else []
    if not any(line.startswith(("ok ", "BAD")) for line in lines):
        raise InputError(
            f"The probe on partition '{partition}' did not run: {done.stderr.strip() or ' '.join(lines[-3:]) or 'no output'}."
        )
    yield from lines
