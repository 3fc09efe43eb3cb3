"""Give one spoilt file to one reader and name what came of it."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch

from hostile.damage import Attack
from mvfl.geometry.cameras import CameraError
from mvfl.runtime.files import InputError

GOOD = ("sentence", "accepted")
BAD = (
    "wrong acceptance", "wrong refusal", "unnamed", "bare ValueError", "traceback", "hang", "memory", "killed", "code ran",
)  # fmt: skip
MOST_MEMORY = 2**30  # bytes that a reader of small files may take
ADDRESS_SPACE = 6 * 2**30  # beyond what the process has, for what runs apart
MARKER = "code-ran"  # file that malicious pickles make beside themselves


class Overdue(BaseException):
    """The reader did not come back; no `except Exception` may swallow it."""


@dataclass(frozen=True)
class Target:
    """A reader under attack.

    Attributes:
        read: takes the folder that holds its files.
        fault: why a result cannot be used, or None; takes the result and the folder.
        complaint: what a reader that answers with findings found wrong, or None.
        lost: whether a result differs from the good one; takes both.
    """

    read: Callable[[Path], Any]
    fault: Callable[[Any, Path], str | None] = lambda _result, _folder: None
    complaint: Callable[[Any], str | None] = lambda _result: None
    lost: Callable[[Any, Any], bool] = lambda result, good: not alike(result, good)


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Attributes:
        kind: one of GOOD or BAD.
        detail: the exception's type and the start of its message, or what is wrong with the result.
    """

    kind: str
    detail: str = ""


def lay_out(seed: Path, folder: Path, attack: Attack | None) -> None:
    """The good files as links, which cost nothing, but for the one that is spoilt."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(seed, folder, copy_function=os.link, symlinks=True)
    if attack is not None:
        path = folder / attack.file
        good = path.read_bytes() if path.is_file() else b""
        path.unlink(missing_ok=True)  # else the link's other end would be written to
        attack.change(path, good)


def judge(target: Target, seed: Path, folder: Path, attack: Attack, good: Any) -> Outcome:
    """Lay the files out, read them and judge.

    Args:
        target: the reader.
        seed: folder of its good files.
        folder: to work in; always the same one, for results may hold paths.
        attack: what to spoil.
        good: result of the good files.
    """
    lay_out(seed, folder, attack)
    outcome = _apart(target, folder, attack, good) if attack.apart else _watched(target, folder, attack, good)
    if any(folder.rglob(MARKER)):
        outcome = Outcome("code ran", outcome.detail)
    return outcome


def _apart(target: Target, folder: Path, attack: Attack, good: Any) -> Outcome:
    """As `_watched`, in a child with bounded memory that is ended when it hangs."""
    fork = multiprocessing.get_context("fork")
    here, there = fork.Pipe(duplex=False)
    child = fork.Process(target=_report, args=(there, target, folder, attack, good), daemon=True)
    child.start()
    there.close()
    try:
        outcome = here.recv() if here.poll(attack.seconds) else Outcome("hang", f"more than {attack.seconds:.0f} s")
    except EOFError:
        outcome = Outcome("killed", "the process died")
    child.kill()
    child.join()
    return outcome


def _report(there: Connection, target: Target, folder: Path, attack: Attack, good: Any) -> None:
    with contextlib.suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + ADDRESS_SPACE
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
    there.send(_watched(target, folder, attack, good))


def _watched(target: Target, folder: Path, attack: Attack, good: Any) -> Outcome:
    """Read, with a timer and an eye on memory."""
    before, began = _peak_memory(), time.monotonic()
    try:
        with _timer(attack.seconds):
            outcome = _outcome(target, folder, attack, good)
    except Overdue:
        return Outcome("hang", f"more than {attack.seconds:.0f} s")
    if time.monotonic() - began > attack.seconds:  # it hung where no signal reaches, in C
        return Outcome("hang", f"{time.monotonic() - began:.0f} s; {outcome.detail}")
    if (more := _peak_memory() - before) > MOST_MEMORY:
        return Outcome("memory", f"{more / 2**30:.1f} GiB; {outcome.detail}")
    return outcome


def _outcome(target: Target, folder: Path, attack: Attack, good: Any) -> Outcome:
    try:
        result = target.read(folder)
    except (InputError, CameraError) as error:
        return _spoken(str(error), type(error).__name__, folder, attack)
    except ValueError as error:  # of any kind: JSONDecodeError, UnicodeDecodeError ...
        return Outcome("bare ValueError", _described(error))
    except (Exception, SystemExit) as error:
        return Outcome("traceback", _described(error))
    if complaint := target.complaint(result):
        return _spoken(complaint, "complaint", folder, attack)
    if fault := target.fault(result, folder):
        return Outcome("wrong acceptance", fault)
    if attack.lossy and target.lost(result, good):
        return Outcome("wrong acceptance", "the result is not the good one, and nothing was said")
    return Outcome("accepted")


def _spoken(text: str, kind: str, folder: Path, attack: Attack) -> Outcome:
    """A reader refused in words: was it allowed to, and did it name the file?"""
    names = (Path(attack.file).name, str(folder), *attack.names)
    if not attack.may_refuse:
        return Outcome("wrong refusal", f"{kind}: {_short(text)}")
    return Outcome("sentence" if any(name in text for name in names) else "unnamed", f"{kind}: {_short(text)}")


def _described(error: BaseException) -> str:
    return f"{type(error).__name__}: {_short(str(error))}"


def _short(text: str) -> str:
    return " ".join(text.split())[:160]


@contextlib.contextmanager
def _timer(seconds: float) -> Iterator[None]:
    def ring(_number: int, _frame: FrameType | None) -> None:
        raise Overdue

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _peak_memory() -> int:
    """Bytes of RAM that the process has held at the most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


# ------------------------------------------------------------------------------------------------- looking at results
def parts_of(value: Any) -> Mapping[Any, Any] | None:
    """What a value is made of, or None for one that is whole."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, list | tuple):
        return dict(enumerate(value))
    if isinstance(value, torch.nn.Module):  # heads and sizes change no tensor, but what the network makes of them
        config = parts_of(getattr(value, "config", None)) or {}
        return {**value.state_dict(), "config": {k: v for k, v in config.items() if not str(k).startswith("_")}}
    if hasattr(value, "model_dump"):  # pydantic
        return value.model_dump()
    return vars(value) if hasattr(value, "__dataclass_fields__") else None


def alike(a: Any, b: Any) -> bool:
    """Whether two results say the same, tensors, arrays and models included."""
    for kind, equal in ((torch.Tensor, _equal_tensors), (np.ndarray, np.array_equal)):
        if isinstance(a, kind) or isinstance(b, kind):
            return isinstance(a, kind) and isinstance(b, kind) and a.shape == b.shape and bool(equal(a, b))
    if (left := parts_of(a)) is not None and (right := parts_of(b)) is not None:
        return left.keys() == right.keys() and all(alike(left[key], right[key]) for key in left)
    return bool(a == b)


def _equal_tensors(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a, b.to(a.dtype))


def not_finite(result: Any, _folder: Path) -> str | None:
    """A fault: NaN or infinity anywhere in a result."""
    return None if _finite(result) else "NaN or infinity in the result"


def _finite(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return not value.is_floating_point() or bool(torch.isfinite(value).all())
    if isinstance(value, np.ndarray):
        return value.dtype.kind != "f" or bool(np.isfinite(value).all())
    if isinstance(value, float):
        return math.isfinite(value)
    parts = parts_of(value)
    return parts is None or all(_finite(v) for v in parts.values())
