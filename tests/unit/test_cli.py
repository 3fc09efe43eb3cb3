"""The command line: quick answers, sentences, a truthful status."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

import mvfl
from mvfl.cli import main


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "mvfl.cli.app", *arguments], capture_output=True, text=True)


def best_of_three(*arguments: str) -> float:
    seconds = []
    for _ in range(3):
        began = time.monotonic()
        run(*arguments)
        seconds.append(time.monotonic() - began)
    return min(seconds)


def test_help_is_quick_and_people_come_first() -> None:
    text = run("--help").stdout
    assert text.index("reconstruct") < text.index("doctor") < text.index("status") < text.index("latents")
    assert best_of_three("--help") < 1.5, "half a second on an idle machine"


def test_a_mistyped_picture_is_answered_before_torch_is_loaded(tmp_path: Path) -> None:
    done = run("reconstruct", str(tmp_path / "fhoto.png"), "--experiment", str(tmp_path))
    assert done.returncode == 1 and "fhoto.png does not exist; name a picture" in done.stderr
    code = "import sys, mvfl.cli.app as a\nsys.argv = ['mvfl', 'reconstruct', 'none.png', '--experiment', '.']\n"
    code += "try: a.main()\nexcept SystemExit: sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_whoever_calls_a_command_sees_its_fault_and_a_log_holds_it(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    (tmp_path / "mouse.png").write_bytes(b"no picture")
    done = run("reconstruct", str(tmp_path / "mouse.png"), "--out", str(tmp_path / "mouse.png" / "x"), "--log", str(log))
    assert done.returncode == 1 and "cannot be written (Not a directory); name another folder (--out)" in done.stderr
    assert done.stderr.splitlines()[-1] in log.read_text()


def test_a_conversion_replaces_nothing(tmp_path: Path) -> None:
    (tmp_path / "new_cam.pkl").write_bytes(b"the only copy")
    done = run("calibration", str(tmp_path / "new_cam.pkl"), str(tmp_path / "new_cam.pkl"))
    assert done.returncode == 1 and "exists; name another file" in done.stderr
    assert (tmp_path / "new_cam.pkl").read_bytes() == b"the only copy"


def test_the_version_is_the_packages() -> None:
    assert run("--version").stdout.strip() == f"mvfl {mvfl.__version__}"


@pytest.mark.parametrize(
    ("job", "sentence"),
    [
        ("{", "--job is not JSON"),
        ("{}", "--job is no job of the stage 'journal': "),
        (
            '{"cases": {}, "ending": "", "decisions": [], "table": "a", "page": "b", "tabel": 1}',
            "unknown key 'tabel'; did you mean 'table'?",
        ),
        ("nowhere.json", "nowhere.json does not exist"),
    ],
)
def test_a_job_that_is_none_ends_in_a_sentence(
    job: str, sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["mvfl", "journal", "--job", job])
    with pytest.raises(SystemExit) as ended:
        main()
    message = capsys.readouterr().err
    assert ended.value.code == 1 and sentence in message and "Traceback" not in message


def test_a_job_may_lie_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = {"cases": {}, "ending": "", "decisions": [], "table": str(tmp_path / "j.csv"), "page": str(tmp_path / "j.md")}
    (tmp_path / "job.json").write_text(json.dumps(job))
    monkeypatch.setattr("sys.argv", ["mvfl", "journal", "--job", str(tmp_path / "job.json")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0 and (tmp_path / "j.md").read_text().startswith("# Journal")


def test_the_public_parts_are_there_with_a_docstring() -> None:
    for name in mvfl.__all__:
        assert getattr(mvfl, name).__doc__, name
    with pytest.raises(AttributeError, match="mvfl has no 'Samplr'; it offers"):
        mvfl.Samplr  # noqa: B018


@pytest.mark.parametrize("stage", ["base", "fetch", "join", "decide", "report", "compare", "journal", "planning", "forced"])
def test_stages_that_compute_nothing_start_without_torch(stage: str) -> None:
    code = f"import sys, mvfl.stages.{stage}, mvfl.cli.stages, mvfl.runtime.provenance; from mvfl.cli.options import begin; begin(None, 1)\n"
    code += "from mvfl.runtime.provenance import provenance; provenance('x', {}, {}, None); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--box", "1,2,3", "takes 4 whole numbers parted by commas (left,top,width,height)"),
        ("--box", "1,2,3,x", "whole numbers parted by commas"),
        ("--box", "nan,2,3,4", "whole numbers parted by commas"),
        ("--elevations", "5,20.5", "whole numbers parted by commas"),
        ("--elevations", "5,120", "takes degrees above the horizon, -89 to 90"),
    ],
)
def test_numbers_of_reconstruct_that_make_no_sense_are_said(option: str, value: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(b"")
    done = run("reconstruct", str(tmp_path / "photo.png"), option, value)
    assert done.returncode == 1 and said in done.stdout + done.stderr and "Traceback" not in done.stdout + done.stderr
