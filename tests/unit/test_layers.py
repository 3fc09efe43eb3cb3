"""The house: imports run downwards only, functions and files stay readable."""

from __future__ import annotations

import ast
from pathlib import Path

import mvfl
from mvfl.runtime.fingerprint import imported_modules

ROOT = Path(mvfl.__file__).parent
# From the ground up; rooms of one floor do not know each other.
FLOORS = (
    {"geometry", "runtime"}, {"config"}, {"layout"}, {"records"}, {"data"}, {"metrics"}, {"mvdiffusion", "gslrm"}, {"verdict"},
    {"stages"}, {"inspection"}, {"cli"},
)  # fmt: skip
FLOOR = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}


def room_of(module: str) -> str:
    return module.split(".")[1]


def arrows() -> list[tuple[str, str]]:
    """(importing module, imported module), imports inside functions included; the public face imports lazily from everywhere."""
    out = []
    for path in sorted(ROOT.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")
        if name != "mvfl":
            out += [(name, other) for other in sorted(imported_modules(path)) if other not in ("mvfl", name)]
    return out


def test_every_room_stands_on_a_floor() -> None:
    rooms = {p.stem for p in ROOT.iterdir() if p.suffix == ".py" or (p / "__init__.py").is_file()}
    assert rooms - {"__init__"} == set(FLOOR)


def test_imports_run_downwards_only() -> None:
    wrong = [
        f"{a} -> {b}"
        for a, b in arrows()
        if room_of(a) != room_of(b) and FLOOR[room_of(b)] >= FLOOR[room_of(a)] and not (room_of(a) == "cli" and b == "mvfl")
    ]
    assert wrong == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    edges: dict[str, set[str]] = {}
    for a, b in arrows():
        if a.rpartition(".")[0] != b:  # a module of a package loads the package's own face
            edges.setdefault(a, set()).add(b)
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join([*way[way.index(module) :], module])
        if module not in done:
            for other in sorted(edges.get(module, ())):
                visit(other, (*way, module))
            done.add(module)

    for module in sorted(edges):
        visit(module, ())


def test_functions_have_at_most_60_lines_and_files_350() -> None:
    long = []
    for path in sorted(ROOT.rglob("*.py")):
        text = path.read_text()
        if text.count("\n") > 350:
            long.append(f"{path.name}: {text.count(chr(10))} lines")
        long += [
            f"{path.name}: {node.name} has {node.end_lineno - node.lineno + 1} lines"
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.FunctionDef) and node.end_lineno and node.end_lineno - node.lineno >= 60
        ]
    assert long == []


def test_planning_loads_no_torch() -> None:
    import subprocess
    import sys

    for module in ("mvfl.stages.planning", "mvfl.cli.app", "mvfl.config.load", "mvfl.records.decision"):
        code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code]).returncode == 0, module
