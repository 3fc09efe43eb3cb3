"""`mvfl doctor`: is this machine ready, and is what the configuration names there? Looks only; changes nothing."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch
from packaging.requirements import Requirement

from mvfl.config.bases import EMBEDDED, HubBase, LocalBase, ScratchBase
from mvfl.config.datasets import Dataset, FolderDataset, MarkerlessDataset
from mvfl.config.workflow import WorkflowConfig
from mvfl.geometry.cameras import CameraError
from mvfl.geometry.rig import load_rig
from mvfl.inspection.base_check import Finding, check_base
from mvfl.inspection.gpu_memory import SMALLER, needs
from mvfl.inspection.stale import stale_results
from mvfl.layout import Layout
from mvfl.records.base import Fetched
from mvfl.runtime.attention import flash_attention_4
from mvfl.runtime.tracking import automatic_mode
from mvfl.stages.fetch import cached

LEAST_MEMORY, LEAST_DISK = 6e9, 10e9  # bytes: what the demo needs, and room for its results


def examine(config: WorkflowConfig) -> list[Finding]:
    """All findings, the machine first; only what the configured experiments use is looked at.

    Args:
        config: validated configuration; relative paths count from the current folder.
    """
    used = config.experiments.values()
    bases = {e.base for e in used}
    datasets = {d for e in used for d in e.datasets}
    return [
        *_packages(),
        *_accelerator(config),
        *_machine(config.results),
        *_tracking(config),
        *_network(config),
        *(f for name in sorted(bases) for f in _base(name, config)),
        *(f for name in sorted(datasets) for f in _dataset(name, config.datasets[name])),
        *_results(config),
    ]


def _packages() -> Iterator[Finding]:
    yield Finding("python", (3, 11) <= sys.version_info[:2] <= (3, 12), f"{sys.version.split()[0]} (3.11 or 3.12)")
    wrong, count = [], 0
    for text in importlib.metadata.requires("mvfl") or []:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        count += 1
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} is not installed")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} {version}, wanted {requirement.specifier}")
    yield Finding("packages", not wrong, "; ".join(wrong) + "; run make setup" if wrong else f"{count} as required")
    yield Finding(
        "snakemake", shutil.which("snakemake") is not None, shutil.which("snakemake") or "not on PATH; . .venv/bin/activate"
    )
    sbatch = shutil.which("sbatch")
    yield Finding("slurm", True, sbatch or "no sbatch here: profiles/local and profiles/local-gpu work, slurm does not")


def _accelerator(config: WorkflowConfig) -> Iterator[Finding]:
    if not torch.cuda.is_available():
        yield Finding("gpu", True, f"none; torch {torch.__version__} runs on the CPU, fit for the demo and for tests")
        return
    for number in range(torch.cuda.device_count()):
        name, memory = torch.cuda.get_device_name(number), torch.cuda.get_device_properties(number).total_memory
        able = torch.cuda.get_device_capability(number) >= (8, 0)
        half = "bf16" if able else "no bf16: set mixed_precision: fp16 (training) and no (gslrm)"
        yield Finding("gpu", able, f"{number}: {name}, {memory / 2**30:.0f} GiB, {half}")
        for rule, wanted in needs(config).items():
            fits = memory / 2**30 >= wanted
            text = f"needs {wanted:.0f} GiB as configured" + ("" if fits else f": {SMALLER}")
            yield Finding(f"gpu for {rule}", fits, text)
    slow = 'torch\'s own; on Hopper and newer cards pip install "mvfl[fast]" makes GS-LRM a fifth faster'
    yield Finding("attention", True, "FlashAttention-4" if flash_attention_4() else slow)
    if importlib.util.find_spec("gsplat.csrc") is not None:
        yield Finding("gsplat", True, "built already")
        return
    compiler = shutil.which("nvcc") or shutil.which(f"{os.environ.get('CUDA_HOME', '/usr/local/cuda')}/bin/nvcc")
    missing = "no nvcc: gsplat cannot build its extension at first use; install the CUDA toolkit or a prebuilt gsplat"
    yield Finding("gsplat", compiler is not None, f"builds its extension at first use with {compiler}" if compiler else missing)


def _machine(results: Path) -> Iterator[Finding]:
    memory = psutil.virtual_memory().total
    yield Finding("memory", memory >= LEAST_MEMORY, f"{memory / 1e9:.0f} GB, {os.cpu_count()} cores")
    place = next(p for p in [results.absolute(), *results.absolute().parents] if p.exists())
    free, writable = shutil.disk_usage(place).free, os.access(place, os.W_OK)
    text = f"{free / 1e9:.0f} GB free for {results}" if writable else f"{place} is not writable"
    yield Finding("disk", writable and free >= LEAST_DISK, text)


def _tracking(config: WorkflowConfig) -> Iterator[Finding]:
    mode = config.wandb.mode if config.wandb.mode != "auto" else automatic_mode()
    note = "" if config.wandb.mode != "auto" else " (found by itself: `wandb login` or WANDB_API_KEY switch it online)"
    yield Finding("wandb", True, f"{mode}{note}")


def _network(config: WorkflowConfig) -> Iterator[Finding]:
    """Compute nodes need no network; where W&B is asked to be online it must be reached from where the training runs."""
    reached = False
    with contextlib.suppress(OSError), socket.create_connection(("api.wandb.ai", 443), timeout=5):
        reached = True
    needed = config.wandb.mode == "online"
    text = "api.wandb.ai is reached" if reached else "api.wandb.ai is not reached: W&B logs to disk, `wandb sync` sends it later"
    yield Finding("network", reached or not needed, text + ("; set wandb.mode: offline" if needed and not reached else ""))


def _base(name: str, config: WorkflowConfig) -> Iterator[Finding]:
    base, part = config.bases[name], f"base {name}"
    folder, gslrm = (base.path, base.gslrm) if isinstance(base, LocalBase) else (EMBEDDED, None)
    note = Layout(config.results).fetched(name)
    if isinstance(base, HubBase):
        if not note.is_file():
            yield _hub_base(part, base)
            return
        there = Fetched.read(note)
        folder, gslrm = there.pipeline, there.gslrm
    if isinstance(base, ScratchBase):
        yield Finding(part, True, "made from random weights")
    elif not folder.is_dir():
        remedy = f"delete {note}, and it is fetched anew" if isinstance(base, HubBase) else f"set bases.{name}.path"
        yield Finding(part, False, f"{folder} does not exist; {remedy}")
    else:
        findings = check_base(folder, gslrm)
        bad = [f"{f.part}: {f.text}" for f in findings if not f.good]
        yield Finding(part, not bad, "; ".join(bad) or f"{folder}: {len(findings)} parts in order")


def _hub_base(part: str, base: HubBase) -> Finding:
    if (found := cached(base)) is None:
        return Finding(part, True, f"{base.repo} is not here yet; the fetch_base rule fetches it (several GB)")
    return Finding(part, True, f"fetched: {found[0]}")


def _results(config: WorkflowConfig) -> Iterator[Finding]:
    """Finished results were made with the settings that stand in the configuration."""
    if config.results.is_file():
        yield Finding("results", False, f"{config.results} is a file; name a folder in results")
        return
    found = list(stale_results(config))
    for folder, rule, changed in found:
        names = ", ".join(changed[:4]) + (" ..." if len(changed) > 4 else "")
        text = f"{folder} was made with other settings ({names}); snakemake --forcerun {rule} if it plans nothing for it"
        yield Finding("results", False, text)
    if not found and config.results.is_dir():
        yield Finding("results", True, f"all in {config.results} was made with these settings")


def _dataset(name: str, dataset: Dataset) -> Iterator[Finding]:
    part = f"data {name}"
    if isinstance(dataset, MarkerlessDataset):
        masks, videos = dataset.files_of("masks"), dataset.files_of("videos")
        if len(videos) < 2:
            fitting = f"{len(videos)} videos fit {dataset.folder / dataset.videos}"
            yield Finding(part, False, f"{fitting}; set datasets.{name}.folder and videos")
            return
        absent = [str(p) for p in [*dataset.calibrations(), *videos] if not p.is_file()] + [str(m) for m in masks if not m.exists()]
        names = ", ".join(dataset.camera_names())
        yield Finding(part, not absent, f"missing: {', '.join(absent)}" if absent else f"videos, masks and calibration of {names}")
        return
    try:
        rig = load_rig(dataset.rig, dataset.image_size)
    except CameraError as error:
        yield Finding(part, False, str(error))
        return
    if not isinstance(dataset, FolderDataset):
        yield Finding(part, True, f"rendered: {dataset.train} + {dataset.val} + {dataset.test} animals, rig {rig.name}")
        return
    count = len(list(dataset.path.glob("sample_*"))) if dataset.path.is_dir() else 0
    text = (
        f"{count} samples in {dataset.path}, rig {rig.name}"
        if count
        else f"{dataset.path} holds no samples; set datasets.{name}.path"
    )
    yield Finding(part, count > 0, text)
