"""The 3D animal that can be turned, in a real browser: from disk, without a network or WebGPU, with mouse and on a narrow screen."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from chromium import BROWSER, opened

from mvfl.gslrm.gaussians import Gaussians
from mvfl.stages.viewer_page import _turned, every_nth, write_sequence, write_viewer

READY = "document.body.dataset.ready === 'yes'"


def a_stick_with_a_red_top() -> Gaussians:
    """A grey stick along +Z, our upwards, red at its top; long along +X at its foot."""
    heights = torch.linspace(-0.4, 0.4, 60)
    xyz = torch.cat(
        [torch.stack([0 * heights, 0 * heights, heights], 1), torch.tensor([[x, 0.0, -0.4] for x in torch.linspace(0, 0.4, 30)])]
    )
    colours = torch.full((len(xyz), 1, 3), -1.0)
    colours[50:60, 0] = torch.tensor([1.7, -1.7, -1.7])
    rotations = torch.tensor([[1.0, 0, 0, 0]]).repeat(len(xyz), 1)
    return Gaussians(xyz, colours, torch.full((len(xyz), 3), -3.8), rotations, torch.full((len(xyz), 1), 5.0))


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium (Debian: apt-get install chromium)")
@pytest.mark.parametrize("width", [1000, 420])
def test_it_stands_upright_turns_under_the_mouse_and_asks_for_nothing(width: int, tmp_path: Path) -> None:
    page = tmp_path / "viewer.html"
    write_viewer(page, a_stick_with_a_red_top(), "a <stick> & more")
    assert page.stat().st_size < 5e6
    with opened(page.as_uri(), tmp_path / "profile", width, 700) as seen:
        seen.wait(READY)
        before = seen.picture().astype(int)
        seen.drag((width // 2, 350), (width // 2 + width // 3, 350))
        time.sleep(1)  # the viewer glides
        after = seen.picture().astype(int)
        assert seen.value("document.documentElement.scrollWidth <= innerWidth") and "a <stick> & more" in seen.value(
            "document.title"
        )
        outside = [address for address in seen.requests if not address.startswith(("file:", "blob:", "data:"))]
    assert outside == [], "nothing leaves"
    grey = (before.max(2) < 200).sum()
    red = np.argwhere((before[..., 0] > before[..., 1] + 60) & (before[..., 0] > before[..., 2] + 60))
    stick = np.argwhere(before.max(2) < 200)
    assert grey > 200, "the canvas is not blank"
    assert red[:, 0].max() < stick[:, 0].mean(), "the red top is above the middle"
    assert np.abs(after - before).max() > 60, "a drag changes the picture"


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium (Debian: apt-get install chromium)")
def test_a_slider_goes_through_the_moments_of_a_recording(tmp_path: Path) -> None:
    page, stick = tmp_path / "viewer.html", a_stick_with_a_red_top()
    blue = stick.sh.clone()
    blue[50:60, 0] = torch.tensor([-1.7, -1.7, 1.7])
    moments = [("first", stick), ("second", replace(stick, sh=blue)), ("third", stick)]
    write_sequence(page, moments, "walk")
    with opened(page.as_uri(), tmp_path / "profile", 420, 700) as seen:
        seen.wait(READY)
        assert seen.value("!document.getElementById('time').hidden && document.documentElement.scrollWidth <= innerWidth")
        red = seen.picture().astype(int)
        seen.value("(() => { const m = document.getElementById('moment'); m.value = 1; m.oninput(); return true; })()")
        seen.wait("document.body.dataset.shown === '1'")
        time.sleep(1)
        assert seen.value("document.getElementById('name').textContent") == "second"
        after = seen.picture().astype(int)

    def more(picture: np.ndarray, channel: int, than: int) -> int:
        return int((picture[..., channel] > picture[..., than] + 60).sum())

    assert more(red, 0, 2) > 20 and more(red, 2, 0) == 0
    assert more(after, 2, 0) > 20 and more(after, 0, 2) == 0, "the second moment is shown"


def test_a_long_recording_is_thinned_out_to_keep_the_page_small(tmp_path: Path) -> None:
    stick = a_stick_with_a_red_top()
    large = stick[torch.arange(90).repeat(60)]
    every = every_nth(60, len(large))
    write_sequence(tmp_path / "viewer.html", [(str(i), large) for i in range(0, 60, every)], "walk")
    assert every == 3 and (tmp_path / "viewer.html").stat().st_size < 5e6
    assert every_nth(2, len(large)) == 1


def test_rotations_follow_the_axes() -> None:
    """A Gaussian that is long along our X must be long along the viewer's file's -X, its Z along -Y."""
    turn = torch.tensor([[-1.0, 0, 0], [0, 0, -1.0], [0, -1.0, 0]])
    quaternions = torch.nn.functional.normalize(torch.randn(50, 4, generator=torch.Generator().manual_seed(0)), dim=1)

    def matrix(q: torch.Tensor) -> torch.Tensor:
        w, x, y, z = q.unbind(-1)
        return torch.stack([
            1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y), 2 * (x * y + w * z), 1 - 2 * (x * x + z * z),
            2 * (y * z - w * x), 2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
        ], -1).unflatten(-1, (3, 3))  # fmt: skip

    torch.testing.assert_close(matrix(_turned(quaternions)), turn @ matrix(quaternions), atol=1e-5, rtol=0)
