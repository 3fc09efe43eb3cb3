"""Compiling: what compiles for a job must outlive the signals at which the job saves itself."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import os, signal, subprocess, sys
from mvfl.runtime.compiling import signals_held_back
heard = []
signal.signal(signal.SIGTERM, lambda *_: heard.append("during"))
start = lambda: subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
with signals_held_back():
    apart = start()
    os.kill(os.getpid(), signal.SIGTERM)
assert heard == ["during"], "it is not lost"
beside = start()
os.killpg(0, signal.SIGTERM)
assert beside.wait(30) == -signal.SIGTERM
assert apart.poll() is None, "a signal to the whole group does not reach it"
apart.communicate(b"\\n", timeout=30)
print("ended", apart.returncode)
"""


def test_processes_that_compile_do_not_hear_the_signals_that_end_a_job() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], start_new_session=True, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "ended 0\n"), done.stderr
