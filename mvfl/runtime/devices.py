"""Choosing and naming the device."""

from __future__ import annotations

import math
import os
import subprocess
import time
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedDataParallelKwargs

PATIENCE = timedelta(hours=3)  # the first process saves and exports while the others wait; NCCL would give up after ten minutes
GPU_LOAD_EVERY = 30.0  # seconds; the driver's tool takes part of one


def device() -> torch.device:
    """CUDA when there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def processes() -> PartialState:
    """How many processes share this job, and which of them this one is; a launcher may start several on CPUs, too."""
    return PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)


def accelerator(**options: Any) -> Accelerator:
    """What brings the processes of this job together.

    Args:
        options: of `accelerate.Accelerator`.
    """
    processes()  # the first to be made decides how long processes wait for each other
    # Without this, each card holds all gradients twice.
    shared = DistributedDataParallelKwargs(gradient_as_bucket_view=True)
    return Accelerator(cpu=not torch.cuda.is_available(), kwargs_handlers=[shared], **options)


def half_precision(place: torch.device) -> torch.dtype:
    """What networks that only draw compute in: bf16 where the card does so itself; elsewhere float32."""
    able = place.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if able else torch.float32


def same_bits() -> None:
    """From here on, this process uses algorithms that give the same bits for the same work, where CUDA has a choice.

    Some are slower. To be called before the first matrix product, since cuBLAS reads its setting then.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True)
    # Nothing here reads memory that nobody wrote, and filling it costs a tenth of the time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def describe_device() -> str:
    """Name of the GPU, or the number of CPU threads."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads"


class Pace:
    """Speed and GPU use of a training loop between two log lines.

    Args:
        step: steps done so far.
        objects: per step, over all processes.
    """

    def __init__(self, step: int, objects: int) -> None:
        self.step, self.objects, self.time = step, objects, time.monotonic()
        self.asked = -math.inf
        self.load: float | None = None

    def values(self, step: int) -> dict[str, float]:
        """Objects per second since the last call; on CUDA also the peak of memory and the load."""
        now = time.monotonic()
        values = {"train/objects_per_second": (step - self.step) * self.objects / max(now - self.time, 1e-9)}
        self.step, self.time = step, now
        if torch.cuda.is_available():
            values["train/gpu_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
            if now - self.asked >= GPU_LOAD_EVERY and processes().is_main_process:
                self.asked, self.load = now, _gpu_load()
            if self.load is not None:
                values["train/gpu_load"] = self.load
        return values


def _gpu_load() -> float | None:
    """Per cent of the last moment in which this process's first GPU was busy, as the driver's tool says."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0] or "0"
    command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-i", first]
    try:
        return float(subprocess.run(command, capture_output=True, text=True, timeout=10).stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
