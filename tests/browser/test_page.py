"""The page of an experiment in a real browser: whole, without a network, and with links that lead somewhere."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# Runs when everything is loaded, and leaves what it found in the title.
PROBE = """<script>addEventListener("load", () => {
  const pictures = [...document.images], from = u => performance.getEntriesByType("resource").filter(e => e.name.startsWith(u)).length;
  document.title = JSON.stringify({pictures: pictures.length, broken: pictures.filter(i => !i.complete || !i.naturalWidth).length,
    network: from("http"), wide: document.documentElement.scrollWidth > innerWidth});
})</script>"""


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
def test_a_page_opens_from_disk_with_all_its_pictures(finished: Path, tmp_path: Path) -> None:
    report = finished / "experiments" / "mouse_6x_aug" / "report"
    text = (report / "index.html").read_text()
    for link in re.findall(r'href="([^"#]+)"', text):
        assert (report / link).is_file(), f"{link} leads nowhere"
    probed = tmp_path / "page.html"
    probed.write_text(text.replace("</head>", f"{PROBE}</head>"))
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1280,2000", f"--user-data-dir={tmp_path}/profile",
               "--virtual-time-budget=5000", "--dump-dom", probed.as_uri()]  # fmt: skip
    shown = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=120)
    found = f'{{"pictures":{text.count("<img ")},"broken":0,"network":0,"wide":false}}'
    assert found in shown.stdout, shown.stdout[:500] + shown.stderr[-2000:]
