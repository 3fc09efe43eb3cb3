"""A real browser for tests, driven over its debugging pipe: pages from disk, no network, WebGL 2 in software, no WebGPU."""

from __future__ import annotations

import base64
import fcntl
import io
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OPTIONS = [
    "--headless=new", "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--hide-scrollbars", "--no-first-run",
    "--disable-features=WebGPU", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--remote-debugging-pipe",
]  # fmt: skip


class Page:
    """One page; commands are those of the Chrome DevTools protocol."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self.to_browser, self.from_browser = to_browser, os.fdopen(from_browser, "rb", buffering=0)
        self.number, self.session, self.rest, self.requests = 0, "", b"", list[str]()

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        self.number += 1
        message: dict[str, Any] = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to_browser, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("method") == "Network.requestWillBeSent":
                self.requests.append(answer["params"]["request"]["url"])
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return dict(answer["result"])

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self.rest:
            assert select.select([self.from_browser], [], [], 60)[0], "the browser is silent"
            self.rest += self.from_browser.read(1 << 20)
        line, self.rest = self.rest.split(b"\0", 1)
        return dict(json.loads(line))

    def value(self, expression: str) -> Any:
        """What an expression gives in the page."""
        return self.ask("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def wait(self, expression: str, seconds: float = 90) -> None:
        """Wait until an expression is true in the page."""
        deadline = time.monotonic() + seconds
        while not self.value(expression):
            assert time.monotonic() < deadline, f"not in {seconds} s: {expression}; {self.value('document.body.innerText')}"
            time.sleep(0.2)

    def picture(self) -> np.ndarray:
        """What is seen, uint8 [height, width, 3]."""
        data = self.ask("Page.captureScreenshot", format="png")["data"]
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))

    def drag(self, start: tuple[int, int], end: tuple[int, int]) -> None:
        """Drag with the left button, in ten steps."""
        mouse = lambda kind, x, y: self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)  # noqa: E731
        mouse("mousePressed", *start)
        for i in range(1, 11):
            mouse("mouseMoved", *(a + (b - a) * i // 10 for a, b in zip(start, end, strict=True)))
        mouse("mouseReleased", *end)


@contextmanager
def opened(address: str, profile: Path, width: int = 1000, height: int = 800) -> Iterator[Page]:
    """A page in a browser of its own."""
    # High numbers, so that none of them is 3 or 4, where the browser looks for its ends.
    (reads, to_browser), (from_browser, writes) = (
        tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 20) for end in os.pipe()) for _ in "io"
    )

    def as_three_and_four() -> None:
        os.dup2(reads, 3)
        os.dup2(writes, 4)

    process = subprocess.Popen(
        [str(BROWSER), *OPTIONS, f"--user-data-dir={profile}", f"--window-size={width},{height}"], preexec_fn=as_three_and_four,
        close_fds=False, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        page = Page(to_browser, from_browser)
        target = page.ask("Target.createTarget", url="about:blank")["targetId"]
        page.session = page.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page.ask("Network.enable")
        page.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        page.ask("Page.navigate", url=address)
        page.wait("document.readyState === 'complete'")
        yield page
    finally:
        process.kill()
        process.wait()
        for end in (reads, writes, to_browser):
            os.close(end)
