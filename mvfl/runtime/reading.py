"""Reading what others wrote: a missing, damaged, foreign or hostile file ends in one sentence that names it and the remedy."""

from __future__ import annotations

import json
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from safetensors import SafetensorError, safe_open

from mvfl.runtime.files import InputError


def require_file(path: Path, remedy: str) -> Path:
    """Refuse what is not an ordinary file; opening a pipe would wait for ever.

    Args:
        path: to be read.
        remedy: what the user should do when it is missing, for example "run the `data` target first".

    Raises:
        InputError: missing, a folder, a pipe, a device, or a link that leads nowhere.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{path} does not exist; {remedy}.") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); {remedy}.") from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise InputError(f"{path} is {kind}, a file is needed; {remedy}.")
    return path


@contextmanager
def named_errors(path: Path, what: str, remedy: str) -> Iterator[None]:
    """Turn whatever a parser raises about a file into one sentence.

    Libraries raise what they like at damaged input (struct.error, KeyError, RuntimeError, MemoryError ...); nothing but reading
    may stand in the block.

    Args:
        path: named in the sentence.
        what: what the file should be, for example "a GS-LRM checkpoint".
        remedy: what to do.

    Raises:
        InputError: in place of any exception but `InputError` itself.
    """
    try:
        yield
    except InputError:
        raise
    except (Exception, RecursionError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{path} cannot be read as {what} ({reason}); {remedy}.") from error


def read_text(path: Path, remedy: str) -> str:
    """Text in UTF-8.

    Raises:
        InputError: missing, no ordinary file, or not text.
    """
    try:
        return require_file(path, remedy).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not a text file in UTF-8; {remedy}.") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); {remedy}.") from error


def parse_json(text: str) -> Any:
    """JSON as the standard has it: NaN and infinity are no numbers.

    Raises:
        ValueError: not JSON; RecursionError: nested too deeply.
    """
    return json.loads(text, parse_constant=_refuse_constant, parse_float=_finite_float, parse_int=_small_int)


def _small_int(text: str) -> int:
    if len(text) > 18:  # what follows counts in 64 bits
        raise ValueError(f"{text[:20]}... is too large")
    return int(text)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def _finite_float(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{text} is too large")
    return value


def read_json(path: Path, remedy: str) -> Any:
    """JSON that another stage, or a person, wrote.

    Raises:
        InputError: missing, not JSON, or with numbers that are none.
    """
    text = read_text(path, remedy)
    with named_errors(path, "JSON", remedy):
        return parse_json(text)


def read_table(path: Path, remedy: str) -> dict[str, Any]:
    """JSON that holds keys and values.

    Raises:
        InputError: as `read_json`, or something else than a table.
    """
    data = read_json(path, remedy)
    if not isinstance(data, dict):
        raise InputError(f"{path} must hold keys and values, it holds a {type(data).__name__}; {remedy}.")
    return data


def is_whole(path: Path) -> bool:
    """Whether a weights file is as long as it says of itself, from its header or directory alone; others: not empty."""
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, "np"):
                return True
        except (SafetensorError, OSError):
            return False
    if path.suffix in (".pt", ".pth", ".ckpt"):
        return zipfile.is_zipfile(path)  # torch's format keeps its directory at the end
    return path.stat().st_size > 0
