"""Pins agree, the schema is generated, and the model code stays small."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from mvfl.config.bases import EMBEDDED
from mvfl.config.workflow import WorkflowConfig
from mvfl.records.base import missing_parts

ROOT = Path(__file__).parents[2]


def pins() -> dict[str, str]:
    lines = [line.split(";")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    return dict(line.lower().split("==") for line in lines if "==" in line)


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [named for group in project["optional-dependencies"].values() for named in group if not named.startswith("mvfl[")]
    named = project["dependencies"] + extras
    missing = [n for n in (re.split(r"[<>=\[ ]", d)[0].lower() for d in named) if n not in pins()]
    assert not missing


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_conda_environments_pin_every_dependency_as_the_constraints_do(name: str) -> None:
    content = yaml.safe_load((ROOT / "envs" / f"{name}.yaml").read_text())
    pip = next(d["pip"] for d in content["dependencies"] if isinstance(d, dict))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [re.split(r"[<>=\[ ]", d)[0].lower() for d in project["dependencies"]]
    assert dict(line.lower().split("==") for line in pip) == {n: pins()[n] for n in names}
    assert "pip install --no-deps -e ." in (ROOT / "envs" / f"{name}.post-deploy.sh").read_text()


def test_the_schema_covers_every_key_of_the_shipped_configuration() -> None:
    schema = json.dumps(WorkflowConfig.model_json_schema())
    for key in ("prompt_style", "view_conditioning", "snr_weighting", "min_slot_accuracy", "real_targets"):
        assert f'"{key}"' in schema


def test_the_model_code_stays_under_1500_lines() -> None:
    files = ["attention", "conditioning", "objective", "pipeline", "unet"]
    paths = [ROOT / "mvfl" / "mvdiffusion" / f"{f}.py" for f in files]
    paths += [ROOT / "mvfl" / "gslrm" / f"{f}.py" for f in ("model", "gaussians", "checkpoint", "rendering")]
    assert sum(len(p.read_text().splitlines()) for p in paths) <= 1500


def test_the_embedded_base_is_whole_and_small_enough_for_git() -> None:
    assert missing_parts(EMBEDDED) == []
    sizes = [f.stat().st_size for f in EMBEDDED.rglob("*") if f.is_file()]
    assert sum(sizes) < 24e6 and max(sizes) < 16e6
    assert (EMBEDDED / "README.md").exists()
