"""What makes a half-done result usable: the settings that decide, the inputs' hashes, and the code that computes.

A release number says nothing of either: a release of documentation would restart trainings of days, and an edited loss
without a new number would go unseen. So the source itself is hashed, without comments, docstrings and layout.
"""

from __future__ import annotations

import ast
import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mvfl.runtime.files import digest

MARK = "fingerprint.json"  # in a state folder
# Packages whose code computes results; settings and inputs are hashed by value, and the rest only moves files about.
COMPUTING = (
    "mvfl.geometry", "mvfl.data", "mvfl.mvdiffusion", "mvfl.gslrm", "mvfl.metrics.image", "mvfl.runtime.attention",
    "mvfl.runtime.randomness",
)  # fmt: skip


@dataclass(frozen=True)
class Fingerprint:
    """Parts that decide a result, each by name, so that a change can be explained.

    Attributes:
        settings: the deciding ones.
        inputs: name -> hash.
        code: digest of the source.
    """

    settings: dict[str, Any]
    inputs: dict[str, str]
    code: str

    @property
    def value(self) -> str:
        """Sixteen hex digits of all parts."""
        return digest(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """The parts as a dictionary."""
        return {"settings": self.settings, "inputs": self.inputs, "code": self.code}


def changed_parts(old: dict[str, Any], new: dict[str, Any], where: str = "") -> list[str]:
    """Names of the entries in which two fingerprints differ, for example `settings.training.learning_rate`."""
    out: list[str] = []
    for key in sorted({*old, *new}):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            out += changed_parts(a, b, f"{where}{key}.")
        elif a != b:
            out.append(f"{where}{key}")
    return out


def imported_modules(path: Path) -> set[str]:
    """Dotted names that a Python file imports from mvfl, inside functions too; a name from a package counts as a module."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in found if name.split(".")[0] == "mvfl" and _source_of(name)}


@functools.cache
def _source_of(module: str) -> Path | None:
    root = Path(__file__).parents[1]
    path = root.joinpath(*module.split(".")[1:])
    candidates = (path.with_suffix(".py"), path / "__init__.py") if module != "mvfl" else (root / "__init__.py",)
    return next((p for p in candidates if p.is_file()), None)


@functools.cache
def code_digest(*modules: str) -> str:
    """Digest of the source of some modules and of all computing modules that they import, directly or not.

    Args:
        modules: dotted names, for example `mvfl.mvdiffusion.training`.
    """
    seen: dict[str, str] = {}
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        path = _source_of(module)
        if module in seen or path is None or not module.startswith(COMPUTING):
            continue
        seen[module] = hashlib.sha256(_meaning(path).encode()).hexdigest()
        waiting += imported_modules(path)
    return digest(seen)


def _meaning(path: Path) -> str:
    """The syntax tree as text, without docstrings; comments and layout are not in it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.dump(tree)
