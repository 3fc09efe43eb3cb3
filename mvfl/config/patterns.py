"""File patterns with `{camera}`: one file, or folder, per camera."""

from __future__ import annotations

import re
from pathlib import Path

HOLDER = "{camera}"


def names_cameras(pattern: str) -> bool:
    """Whether a pattern holds `{camera}` and no other brace."""
    return HOLDER in pattern and not re.search(r"[{}]", pattern.replace(HOLDER, ""))


def fill(pattern: str, name: str) -> str:
    """The path of one camera."""
    return pattern.replace(HOLDER, name)


def natural(text: str) -> list[tuple[int, int | str]]:
    """Key that sorts `2` before `10`."""
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"(\d+)", text) if part]


def names_in(pattern: str) -> list[str]:
    """What stands for `{camera}` in the paths that exist, in natural order; empty where nothing fits."""
    parts = Path(pattern).parts
    level = next(i for i, part in enumerate(parts) if HOLDER in part)
    folder, part = Path(*parts[:level]), parts[level]
    if not folder.is_dir():
        return []
    shape = re.compile(re.escape(part).replace(re.escape(HOLDER), r"(?P<name>[^/]+)", 1).replace(re.escape(HOLDER), r"(?P=name)"))
    found = (shape.fullmatch(entry.name) for entry in visible(folder))
    names = sorted({m["name"] for m in found if m}, key=natural)
    if odd := [n for n in names if not re.fullmatch(r"[\w.-]+", n)]:
        raise ValueError(
            f"{fill(pattern, odd[0])}: the name of a camera may hold letters, digits, '.', '_' and '-' only, and '{odd[0]}' holds "
            "others; rename the file, or list the cameras in `cameras`."
        )
    return [n for n in names if Path(fill(pattern, n)).exists()]


def visible(folder: Path) -> list[Path]:
    """What lies in a folder, without hidden files: macOS leaves a twin `._name` beside every file on foreign disks."""
    return [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
