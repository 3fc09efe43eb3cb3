"""Snakemake as a user calls it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent


def snakemake(*arguments: str, results: Path | None = None, config: tuple[str, ...] = ("ci",), expect: int | None = 0) -> str:
    """Run snakemake from the repository's root; returns all it printed."""
    overlays = [c if c.endswith(".yaml") else f"configs/{c}.yaml" for c in config]
    command = [str(BIN / "snakemake"), "--profile", "profiles/local", "--nolock", *arguments, "--configfile", *overlays]
    if results is not None:
        command += ["--config", f"results={results}"]
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "COLUMNS": "200"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    text = done.stdout + done.stderr
    if expect is not None:
        assert done.returncode == expect, text[-4000:]
    return text


def jobs(text: str) -> dict[str, int]:
    """The table of jobs that a dry run prints."""
    table = re.search(r"^job +count\n-+ +-+\n(.*?)^total", text, re.S | re.M)
    assert table, text[-2000:]
    return {line.split()[0]: int(line.split()[1]) for line in table.group(1).strip().splitlines()}
