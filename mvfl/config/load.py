"""Reading, merging and validating `workflow_config.yaml` and its overlays."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from mvfl.config.strict import nearest
from mvfl.config.workflow import Sweep, WorkflowConfig
from mvfl.runtime.files import InputError
from mvfl.runtime.reading import named_errors, read_text


def merged(base: dict[Any, Any], overlay: dict[Any, Any]) -> dict[Any, Any]:
    """Deep merge of two dictionaries; the overlay wins, lists are replaced whole."""
    out = copy.copy(base)
    for key, value in overlay.items():
        if isinstance(value, dict) and isinstance(out.get(key), dict):
            out[key] = merged(out[key], value)
        else:
            out[key] = value
    return out


DEEPEST = 50  # brackets; the reader takes minutes over thousands
NOTHING, VALUE = object(), (str, int, float)
LARGEST = 100_000  # values of a configuration, aliases written out; the shipped ones have a few hundred


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which a key that stands twice is an error; usually the last one would win in silence."""

    def get_single_node(self) -> yaml.Node | None:
        """The whole document; refused where its aliases stand for more than any configuration holds."""
        node = super().get_single_node()
        if node is not None and _written_out(node, {}) > LARGEST:
            raise yaml.YAMLError("its aliases stand for more values than a configuration has")
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(None, None, f"key '{key.value}' stands here twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _written_out(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node stands for when its aliases are written out; a node inside itself counts as endless."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in known:
        known[id(node)] = LARGEST + 1
        parts = node.value if isinstance(node, yaml.SequenceNode) else [n for pair in node.value for n in pair]
        known[id(node)] = 1 + sum(_written_out(part, known) for part in parts)
    return known[id(node)]


def read_yaml(path: Path) -> dict[Any, Any]:
    """A YAML file that holds a table.

    Raises:
        InputError: missing, not YAML, a key that stands twice, or something else than a table.
    """
    text = read_text(path, "name the configuration files that are to be read")
    with named_errors(path, "YAML", "mend the line"):
        depths = itertools.accumulate((c in "[{") - (c in "]}") for c in text)
        if max(depths, default=0) > DEEPEST:
            raise ValueError("brackets nested more deeply than any configuration's")
        content = yaml.load(text, _UniqueKeys) or {}
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold keys and values, it holds a {type(content).__name__}.")
    return content


def parse_config(raw: dict[Any, Any], sources: Sequence[Path] = (), command: Sequence[str] = ()) -> WorkflowConfig:
    """Validate a merged configuration, all experiments at once.

    Args:
        raw: the merged dictionary, as Snakemake's `config` holds it.
        sources: the files it came from, in order, for messages.
        command: Snakemake's command line.

    Raises:
        InputError: one sentence per fault with file, key and the nearest valid key.
    """
    if sum(word.split("=")[0] in ("--configfile", "--configfiles") for word in command) > 1:
        raise InputError("--configfile stands twice, and Snakemake reads the last one only; name all files after one --configfile.")
    for source in sources:
        read_yaml(source)  # Snakemake has read them, but does not mind keys that stand twice
    data = copy.deepcopy(raw)
    defaults, experiments = data.get("defaults") or {}, data.get("experiments") or {}
    for where, table in {"defaults": defaults, "experiments": experiments}.items():
        if not isinstance(table, dict):
            raise InputError(f"{_file_of([where], '', sources)}: {where} must hold keys and values.")
    _add_sweep(data, experiments)
    for name, experiment in experiments.items():
        if not isinstance(experiment, dict | None):
            file = _file_of(["experiments", str(name)], "", sources)
            raise InputError(f"{file}: experiments.{name} must hold keys and values.")
        data["experiments"][name] = merged(defaults, experiment or {})
    try:
        return WorkflowConfig.model_validate(data)
    except ValidationError as error:
        lines = []
        for fault in error.errors():
            location, message = _place(fault["loc"], data), fault["msg"].removeprefix("Value error, ")
            if not location and (told := re.match(r"([\w.-]+): ", message)):  # a rule between settings names the one that is wrong
                location, message = told[1].split("."), message[told.end() :]
            file = _file_of(location, message, sources, data)
            line = f"{file}: {'.'.join(location) or 'top level'}: {message}"
            if line not in lines:
                lines.append(line)
        raise InputError("The configuration cannot be used.\n" + "\n".join(f"- {line}" for line in lines)) from error


def _add_sweep(data: dict[Any, Any], experiments: dict[Any, Any]) -> None:
    """Make the experiments of `sweep`. What is wrong with its form the validation says."""
    try:
        sweep = Sweep.model_validate(data.get("sweep"))
    except ValidationError:
        return
    if sweep.of not in experiments:
        raise InputError(f"sweep.of: '{sweep.of}' is no experiment; {nearest(sweep.of, sorted(map(str, experiments)))}")
    source = experiments[sweep.of] or {}
    if not isinstance(source, dict):
        return
    for name, varied in sweep.variants():
        if name in experiments:
            raise InputError(f"sweep: two experiments would be called '{name}'; name each value once, or rename the other one.")
        words = ", ".join(f"{key.split('.')[-1]} {value}" for key, value in varied.items())
        settings: dict[Any, Any] = {"description": f"{sweep.of} with {words}", "wandb_run": name}
        for key, value in varied.items():
            for part in reversed(key.split(".")):
                value = {part: value}
            settings = merged(settings, value)
        experiments[name] = merged(source, settings)


def _place(location: Sequence[int | str], data: Any) -> list[str]:
    """Keys and indices to a fault as they stand in the files, without the validation's own words for kinds and choices."""
    out = []
    for number, part in enumerate(location):
        held: Any = dict(enumerate(data)) if isinstance(data, list) else data if isinstance(data, dict) else {}
        key = next((key for key in held if key == part), part)  # YAML's true is 1 to the validation
        if key in held:
            data = held[key]
        elif not (isinstance(data, dict) and number == len(location) - 1 and part != "[key]"):  # a key that is missing
            continue
        out.append(str(key))
    return out


def _at(node: Any, path: Sequence[str]) -> Any:
    """What stands at a place of a tree, or `NOTHING`; indices stay at their list."""
    for part in path:
        if isinstance(node, dict):
            node = next((value for key, value in node.items() if str(key) == part), NOTHING)
    return node


def _file_of(location: list[str], message: str, sources: Sequence[Path], data: Any = None) -> str:
    """The last source that holds the faulty key (an experiment's key may come from `defaults`)."""
    named = [message.split("'")[1]] if message.startswith("unknown key '") else []
    paths = [location, ["defaults", *location[2:]]] if location[:1] == ["experiments"] else [location]
    used = _at(data, location)
    for source in reversed(sources):
        content = read_yaml(source)
        for path in paths:
            held = _at(content, [*path, *named])
            if held is not NOTHING:
                replaced = isinstance(held, VALUE) and isinstance(used, VALUE) and str(held) != str(used)
                return "--config" if replaced else str(source)
    # A key that no file holds was given on the command line (--config); a key that is missing belongs to the first file.
    return "configuration" if not sources else f"--config or {sources[0]}" if named else str(sources[0])


def load_config(paths: Sequence[Path]) -> WorkflowConfig:
    """Read YAML files in order (later ones win) and validate the result."""
    raw: dict[Any, Any] = {}
    for path in paths:
        raw = merged(raw, read_yaml(path))
    return parse_config(raw, paths)


WHOLE = {"experiment", "experiments", "bases", "datasets", "cases"}  # keys that no overlay has all of


def load_with_base(paths: Sequence[Path] | None) -> WorkflowConfig:
    """As `load_config`, with `workflow_config.yaml` of the working directory below, as Snakemake does with `--configfile`.

    Args:
        paths: overlays; a first file that is a whole configuration stands for itself. None: the base file alone.

    Raises:
        InputError: with file, key and hint.
    """
    found, base = list(paths or []), Path("workflow_config.yaml")
    if found and (found[0].resolve() == base.resolve() or read_yaml(found[0]).keys() >= WHOLE):
        return load_config(found)
    return load_config([base, *found])
