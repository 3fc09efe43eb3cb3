"""Reading, merging and validating `workflow_config.yaml` and its overlays."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from mvfl.config.schema import WorkflowConfig
from mvfl.runtime.files import InputError


def merged(base: dict[str, Any], overlay: dict[str, Any]) -> dict[str, Any]:
    """Deep merge of two dictionaries; the overlay wins, lists are replaced whole."""
    out = copy.copy(base)
    for key, value in overlay.items():
        if isinstance(value, dict) and isinstance(out.get(key), dict):
            out[key] = merged(out[key], value)
        else:
            out[key] = value
    return out


def parse_config(raw: dict[str, Any], sources: Sequence[Path] = ()) -> WorkflowConfig:
    """Validate a merged configuration, all experiments at once.

    Args:
        raw: the merged dictionary, as Snakemake's `config` holds it.
        sources: the files it came from, in order, for messages.

    Raises:
        InputError: one sentence per fault with file, key and the nearest valid key.
    """
    data = copy.deepcopy(raw)
    defaults = data.get("defaults") or {}
    for name, experiment in (data.get("experiments") or {}).items():
        data["experiments"][name] = merged(defaults, experiment or {})
    try:
        return WorkflowConfig.model_validate(data)
    except ValidationError as error:
        lines = []
        for fault in error.errors():
            location = [str(part) for part in fault["loc"]]
            message = fault["msg"].removeprefix("Value error, ")
            file = _file_of(location, message, sources)
            line = f"{file}: {'.'.join(location) or 'top level'}: {message}"
            if line not in lines:
                lines.append(line)
        raise InputError("The configuration cannot be used.\n" + "\n".join(f"- {line}" for line in lines)) from error


def _file_of(location: list[str], message: str, sources: Sequence[Path]) -> str:
    """The last source that holds the faulty key (an experiment's key may come from `defaults`)."""
    named = message.split("'")[1] if message.startswith("unknown key '") else None
    paths = [location, ["defaults", *location[2:]]] if location[:1] == ["experiments"] else [location]
    for source in reversed(sources):
        content = yaml.safe_load(source.read_text()) or {}
        for path in paths:
            node: Any = content
            # Tags of discriminated unions ("rodent") stand in the location but not in the file.
            for part in [*path, *([named] if named else [])]:
                if isinstance(node, dict) and part in node:
                    node = node[part]
                elif not (isinstance(node, dict) and node.get("kind") == part):
                    break
            else:
                return str(source)
    return str(sources[0]) if sources else "configuration"


def load_config(paths: Sequence[Path]) -> WorkflowConfig:
    """Read YAML files in order (later ones win) and validate the result."""
    raw: dict[str, Any] = {}
    for path in paths:
        try:
            content = yaml.safe_load(path.read_text())
        except FileNotFoundError as error:
            raise InputError(f"Configuration file {path} does not exist.") from error
        except yaml.YAMLError as error:
            raise InputError(f"{path} is not valid YAML: {error}") from error
        raw = merged(raw, content or {})
    return parse_config(raw, paths)
