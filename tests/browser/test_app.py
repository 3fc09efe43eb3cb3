"""The page of `mvfl app` in a real browser, with the embedded base on the CPU: picture in, turnable 3D and files out."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from chromium import BROWSER, Page, opened
from PIL import Image

from mvfl.data.rodent.sampling import make_sample
from mvfl.geometry.rig import load_rig
from mvfl.runtime.files import InputError
from mvfl.stages import app
from mvfl.stages.reconstructor import Reconstructor

pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium (Debian: apt-get install chromium)")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A running `mvfl app`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [str(Path(sys.executable).parent / "mvfl"), "app", "--port", str(port)], stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr and f"Open http://127.0.0.1:{port}/ in a browser" in process.stderr.readline()
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rendered animal on white, oblong as photos are."""
    rgba = make_sample((4, 2), load_rig("ring60", 128).cameras, ["brown"], ["walk"]).pictures[1]
    picture = Image.new("RGB", (200, 128), "white")
    picture.paste(Image.fromarray(rgba), (40, 0), Image.fromarray(rgba))
    path = tmp_path_factory.mktemp("photo") / "mouse.png"
    picture.save(path)
    return path


def upload(page: Page, file: Path) -> None:
    root = page.ask("DOM.getDocument", depth=1)["root"]["nodeId"]
    field = page.ask("DOM.querySelector", nodeId=root, selector="input[type=file]")["nodeId"]
    page.ask("DOM.setFileInputFiles", nodeId=field, files=[str(file)])
    page.wait(f"document.body.innerText.includes('{file.stem}')", 20)


def press(page: Page) -> None:
    page.value("[...document.querySelectorAll('button')].find(b => b.innerText.includes('Make the 3D')).click()")


@pytest.mark.parametrize("width", [1400, 420])
def test_a_dropped_picture_becomes_an_animal_that_can_be_turned(width: int, address: str, photo: Path, tmp_path: Path) -> None:
    with opened(address, tmp_path / "profile", width, 900) as page:
        page.wait("document.querySelector('input[type=file]') !== null")
        upload(page, photo)
        press(page)
        page.wait("document.querySelector('iframe')?.contentDocument?.body?.dataset.ready === 'yes'", 120)
        assert "Outline as photographed" in page.value("document.body.innerText")
        links = "[...document.querySelectorAll('a[href]')].map(a => a.href)"
        page.wait(f"{links}.some(a => a.endsWith('gaussians.ply'))", 20)
        ply = next(a for a in page.value(links) if a.endswith("gaussians.ply"))
        assert page.value("document.documentElement.scrollWidth <= innerWidth")
        page.value("document.querySelector('iframe').scrollIntoView({block: 'center'})")
        time.sleep(1)
        box = page.value(
            "(r => [r.x, r.y, r.width, r.height].map(Math.round))(document.querySelector('iframe').getBoundingClientRect())"
        )
        before = part(page, box)
        page.drag((box[0] + box[2] // 2, box[1] + box[3] // 2), (box[0] + box[2] * 4 // 5, box[1] + box[3] // 2))
        time.sleep(1)
        after = part(page, box)
        outside = [a for a in page.requests if not a.startswith((address, "data:", "blob:", "about:"))]
    assert (before.max(2) < 200).sum() > 300 and np.abs(after - before).max() > 60, "it is seen, and a drag turns it"
    assert urllib.request.urlopen(ply).read(3) == b"ply"
    assert outside == [], "nothing leaves this machine"


def part(page: Page, box: list[int]) -> np.ndarray:
    """The picture inside a box of the page."""
    return page.picture().astype(int)[max(0, box[1]) : box[1] + box[3], box[0] : box[0] + box[2]]


def test_what_is_no_picture_is_answered_in_words(address: str, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG no picture")
    with opened(address, tmp_path / "profile", 1000, 800) as page:
        page.wait("document.querySelector('input[type=file]') !== null")
        upload(page, tmp_path / "broken.png")
        press(page)
        page.wait("document.body.innerText.includes('save it as PNG or JPEG')", 30)


def test_large_pictures_and_wrong_boxes_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    made = Reconstructor.load()
    Image.new("1", (9000, 9000)).save(tmp_path / "huge.png")
    with pytest.raises(InputError, match="81 million pixels, more than 50"):
        app.model_of(made, tmp_path / "huge.png", tmp_path / "out", app.AS_IT_IS, "", app.KNOWN_HEIGHT)
    Image.new("L", (64, 64), 90).save(tmp_path / "grey.gif")
    with pytest.raises(InputError, match="save it as PNG or JPEG"):
        app.model_of(made, tmp_path / "grey.gif", tmp_path / "out", app.AS_IT_IS, "", app.KNOWN_HEIGHT)
    Image.new("L", (64, 64), 90).save(tmp_path / "grey.png")
    with pytest.raises(InputError, match="four whole numbers"):
        app.model_of(made, tmp_path / "grey.png", tmp_path / "out", app.IN_A_BOX, "1,2,3", app.KNOWN_HEIGHT)
