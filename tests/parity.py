"""Data that the original program made: the full set where it is present, else the subset in the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

FULL = Path(os.environ.get("MVFL_PARITY", Path(__file__).parents[2] / "shared" / "parity"))
SUBSET = Path(__file__).parent / "data" / "parity"


def parity_file(name: str) -> Path:
    """A file of the original program's data; skips the test where only the full set has it and that is not here."""
    assert "MVFL_PARITY" not in os.environ or FULL.is_dir(), f"MVFL_PARITY names {FULL}, which is no folder."
    for root in (FULL, SUBSET):
        if (root / name).exists():
            return root / name
    assert not FULL.is_dir(), f"{name} is in no set, the full one included: is it misspelled?"
    pytest.skip(f"{name} is in the full parity set only; set MVFL_PARITY to its folder")


def parity_tensors(name: str, *keys: str) -> dict[str, torch.Tensor]:
    """Tensors of the original program; skips where the subset lacks some of `keys` and the full set is not here."""
    file = parity_file(name)
    tensors = load_file(file)
    if missing := [k for k in keys if k not in tensors]:
        assert not file.is_relative_to(FULL), f"{file} lacks {', '.join(missing)}: misspelled?"
        pytest.skip(f"{name} lacks {', '.join(missing)} in the subset; set MVFL_PARITY to the full set")
    return tensors
