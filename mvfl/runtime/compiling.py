"""Compiling networks: whether, and so that a job can still end in good order."""

from __future__ import annotations

import contextlib
import functools
import shutil
import signal
from collections.abc import Iterator
from typing import Literal

import torch

from mvfl.runtime.training_state import SIGNALS


def compiles(wish: bool | Literal["auto"]) -> bool:
    """Whether a network is compiled: as asked, or on CUDA where a C compiler is there, which Triton needs."""
    return wish if isinstance(wish, bool) else torch.cuda.is_available() and any(map(shutil.which, ("gcc", "cc", "clang")))


@contextlib.contextmanager
def signals_held_back() -> Iterator[None]:
    """A process that is started meanwhile never hears the signals that ask for an end; this one does, afterwards at the latest."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@functools.cache
def start_compilers() -> None:
    """Make torch start the processes that compile for it, once, out of reach of signals; to be called before `torch.compile`.

    Ctrl-C, and schedulers, signal every process of a job. This one saves its state then; torch's compilers would die, and this
    process would wait for them without end (pytorch#189290). They leave by themselves when this process does.
    """
    if torch.cuda.is_available():  # only Triton's kernels are compiled by processes of their own
        with signals_held_back():
            torch.compile(torch.neg)(torch.zeros(1, device="cuda"))
