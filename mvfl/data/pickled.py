"""Pickled calibrations: arrays and plain values only; whatever else could run code or take memory is refused."""

from __future__ import annotations

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np

from mvfl.runtime.files import InputError
from mvfl.runtime.reading import named_errors, require_file

LARGEST = 2**20  # bytes; a calibration of a hundred cameras takes a tenth
ARRAYS = ("numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric", "numpy._core.numeric")


def _empty_array(kind: Any, shape: Any, code: Any) -> np.ndarray:
    """What a pickled array begins as. A file could ask for any size here, honest ones ask for none."""
    if shape not in ((0,), 0):
        raise ValueError("it asks for an array of a size of its own, which honest ones do not")
    return np.ndarray.__new__(np.ndarray, (0,), code)


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}:
            return super().find_class(module, name)
        if module in ARRAYS and name == "_reconstruct":
            return _empty_array
        if module in ARRAYS and name in ("scalar", "_frombuffer"):
            return super().find_class(module, name)
        raise ValueError(f"it asks for {module}.{name}, which arrays do not need: it could run code, so it was not read")


def read_pickle(path: Path) -> Any:
    """A pickle of arrays. Its opcodes are looked at first: some reserve memory before anything is checked.

    Raises:
        InputError: too large, damaged, or asking for anything but arrays.
    """
    remedy = "export the calibration again, as a list of cameras with R, T and K"
    data = require_file(path, remedy).read_bytes() if path.is_file() and path.stat().st_size <= LARGEST else b""
    if not data:
        raise InputError(f"{require_file(path, remedy)} is empty, or too large for a calibration (at most 1 MB); {remedy}.")
    with named_errors(path, "a pickle", remedy):
        for code, argument, _ in pickletools.genops(data):
            if code.name in ("PUT", "BINPUT", "LONG_BINPUT") and isinstance(argument, int) and argument > len(data):
                raise ValueError("it asks for memory that it cannot fill")
        return _ArraysOnly(io.BytesIO(data)).load()
