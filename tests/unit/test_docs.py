"""What the documentation names exists, and what is made of the code is current."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from mvfl.config.workflow import WorkflowConfig

ROOT = Path(__file__).parents[2]
PAGES = sorted(p for p in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "mvfl/embedded_base/README.md"])
# Files of the repository; results, which do not exist in a clone, end otherwise or stand under results/.
NAMED = re.compile(r"`([\w./*-]+\.(?:py|smk|md|sh|toml|cff))`|`((?:configs|profiles|envs|rules|tests|docs)/[\w./*-]+)`")
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_path_that_a_page_names_exists(page: Path) -> None:
    text = page.read_text()
    names = [a or b for a, b in NAMED.findall(text) if not a.startswith("results/")]
    missing = [n for n in names if not any(list(root.glob(n)) for root in (ROOT, ROOT / "mvfl", ROOT / "docs"))]
    missing += [target for target in LINK.findall(text) if not (page.parent / target).exists()]
    assert missing == []


def test_the_schema_that_editors_read_is_current() -> None:
    header, path = (ROOT / "workflow_config.yaml").read_text().splitlines()[0], ROOT / "configs/workflow_config.schema.json"
    assert header == f"# yaml-language-server: $schema={path.relative_to(ROOT)}"
    assert json.loads(path.read_text()) == WorkflowConfig.model_json_schema(), (
        "run: mvfl schema > configs/workflow_config.schema.json"
    )


def test_editors_find_the_shipped_configuration_right_and_a_misspelled_default_wrong() -> None:
    shipped = yaml.safe_load((ROOT / "workflow_config.yaml").read_text())
    editor = Draft202012Validator(WorkflowConfig.model_json_schema())
    assert [fault.message for fault in editor.iter_errors(shipped)] == []
    shipped["defaults"]["trainig"] = {}
    assert any("trainig" in fault.message for fault in editor.iter_errors(shipped))


def test_the_version_is_stated_alike() -> None:
    import mvfl

    assert f"version: {mvfl.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## {mvfl.__version__}\n" in (ROOT / "CHANGELOG.md").read_text()
