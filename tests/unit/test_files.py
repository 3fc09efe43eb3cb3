"""Files are written whole or not at all, whatever library meets a full disk."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mvfl.runtime.files import InputError, written_aside


def test_a_full_disk_leaves_the_old_file_and_says_what_to_do(tmp_path: Path) -> None:
    target = tmp_path / "x.json"
    target.write_text("old")
    with pytest.raises(InputError, match=r"Could not write .*No space left.*Free some space"), written_aside(target) as temporary:
        temporary.write_text("half")
        raise OSError(28, "No space left on device")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


WRITERS = """
import resource, sys
from pathlib import Path
import numpy as np, torch
from safetensors.torch import save_file
from mvfl.runtime.files import InputError, written_aside
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
data = torch.randn(100, 100)
writers = {"torch": lambda f: torch.save(data, f), "safetensors": lambda f: save_file({"a": data}, f),
           "numpy": lambda f: np.save(f.open("wb"), data.numpy()), "text": lambda f: f.write_text("x" * 20_000)}
for name, write in writers.items():
    try:
        with written_aside(Path(sys.argv[1]) / name) as temporary:
            write(temporary)
    except InputError as error:
        print(name, error)
"""


def test_every_library_that_meets_a_full_disk_ends_in_the_same_sentence(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", WRITERS, str(tmp_path)], capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["torch", "safetensors", "numpy", "text"], done.stderr
    assert all("Could not write" in line and "Free some space" in line for line in lines)
    assert list(tmp_path.iterdir()) == []
