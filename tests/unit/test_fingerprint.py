"""What makes a half-done result usable: settings, inputs and code, never a release number."""

from __future__ import annotations

from pathlib import Path

import pytest

from mvfl.runtime import fingerprint
from mvfl.runtime.fingerprint import Fingerprint, changed_parts, code_digest

TRAINING = "mvfl.mvdiffusion.training"
AS_IT_IS = code_digest(TRAINING)
GSLRM = "mvfl.gslrm.training"
GSLRM_AS_IT_IS = code_digest(GSLRM)  # before anything is edited: it is remembered


@pytest.fixture
def edited(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Digest of the training's code after one module's text was changed."""

    def digest(module: str, old: str, new: str, of: str = TRAINING) -> str:
        source = fingerprint._source_of(module)
        assert source is not None
        text = source.read_text()
        assert old in text
        copy = tmp_path / source.name
        copy.write_text(text.replace(old, new, 1))
        real = fingerprint._source_of
        monkeypatch.setattr(fingerprint, "_source_of", lambda name: copy if name == module else real(name))
        return code_digest.__wrapped__(of)

    return digest


def test_an_edited_loss_is_another_code(edited) -> None:
    assert edited("mvfl.mvdiffusion.objective", "(error * weights).mean()", "(error * weights).sum()") != AS_IT_IS


@pytest.mark.parametrize(
    ("module", "old"), [("mvfl.metrics.image", "def predicted_mask("), ("mvfl.runtime.attention", "def attend(")]
)
def test_what_gslrm_takes_from_outside_its_own_package_counts(edited, module: str, old: str) -> None:
    """Masks of opaque pictures, and attention."""
    assert edited(module, old, "LIMIT = 1\n\n\n" + old, GSLRM) != GSLRM_AS_IT_IS


def test_comments_and_docstrings_are_not(edited) -> None:
    assert edited("mvfl.mvdiffusion.objective", '"""All draws of one pass', '"""Every draw of one pass') == AS_IT_IS


def test_code_that_only_moves_files_about_is_not(edited) -> None:
    assert edited("mvfl.runtime.tracking", "secrets.token_hex(4)", "secrets.token_hex(5)") == AS_IT_IS


def test_the_version_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mvfl.__version__", "9.9.9")
    assert code_digest.__wrapped__(TRAINING) == AS_IT_IS


def test_what_changed_is_named() -> None:
    old = Fingerprint({"training": {"learning_rate": 1e-4, "seed": 1}}, {"base": "a"}, "c")
    new = Fingerprint({"training": {"learning_rate": 2e-4, "seed": 1}}, {"base": "b"}, "c")
    assert changed_parts(old.to_json(), new.to_json()) == ["inputs.base", "settings.training.learning_rate"]
    assert old.value != new.value == Fingerprint(new.settings, new.inputs, "c").value
