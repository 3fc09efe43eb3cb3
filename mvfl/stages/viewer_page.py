"""`viewer.html`: a 3D animal that can be turned, in one file that opens from disk without a network."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from markupsafe import Markup

from mvfl.gslrm.formats import packed
from mvfl.gslrm.gaussians import Gaussians
from mvfl.runtime.files import write_text
from mvfl.stages.pages import rendered

# From our world (Z up) to files as the viewer expects them: it turns them by 180 degrees about Z into its own world (Y up).
TO_VIEWER = ((-1.0, 0.0, 0.0), (0.0, 0.0, -1.0), (0.0, -1.0, 0.0))
FIELD_OF_VIEW = 40.0  # degrees
PACKED_BYTES = 22  # of a Gaussian in the page: 16, in base64
MOMENTS_BYTES = 2.7e6  # of all moments; the viewer takes 2.1 MB, and a page shall stay below 5


def write_viewer(path: Path, gaussians: Gaussians, title: str) -> None:
    """Write a page in which the animal can be turned.

    Args:
        path: of the page.
        gaussians: of one object; colours are shown without their change with the direction.
        title: what the page is called.
    """
    write_sequence(path, [(title, gaussians)], title)


def every_nth(moments: int, gaussians: int) -> int:
    """Which moments a page can show: every n-th, so that it stays small.

    Args:
        moments: number of them.
        gaussians: of the largest one.
    """
    return max(1, math.ceil(moments * gaussians * PACKED_BYTES / MOMENTS_BYTES))


def write_sequence(path: Path, moments: Sequence[tuple[str, Gaussians]], title: str) -> None:
    """Write a page in which an animal can be turned and followed through time.

    Args:
        path: of the page.
        moments: name and Gaussians of each, in order.
        title: what the page is called.
    """
    assets = files("mvfl.stages") / "viewer"
    text = {name: (assets / name).read_text(encoding="utf-8") for name in ("viewer.min.js", "viewer.css")}
    models = [{"name": name, "ply": base64.b64encode(packed(_turned_over(gaussians))).decode()} for name, gaussians in moments]
    page = rendered(
        "viewer.html.j2", title=title, css=Markup(text["viewer.css"]),
        code=Markup(text["viewer.min.js"].replace("</script", "<\\/script")),
        models=models, settings=_settings([gaussians for _, gaussians in moments]),
    )  # fmt: skip
    write_text(path, page)


def _turned_over(gaussians: Gaussians) -> Gaussians:
    """The Gaussians in the viewer's axes."""
    turn = torch.tensor(TO_VIEWER, device=gaussians.xyz.device)
    return replace(gaussians, xyz=gaussians.xyz @ turn.T, rotations=_turned(gaussians.rotations))


def _turned(rotations: torch.Tensor) -> torch.Tensor:
    """Quaternions (w, x, y, z) after `TO_VIEWER`: half a turn about (0, 1, -1), that is (0, 0, r, -r) with r = sqrt(1/2)."""
    w, x, y, z = rotations.unbind(-1)
    r = 0.5**0.5
    return torch.stack([r * (z - y), r * (y + z), r * (w - x), -r * (w + x)], -1)


def _settings(moments: Sequence[Gaussians]) -> dict[str, Any]:
    """The viewer's own settings: white background, the animal filling the picture, seen from the front and a little above."""
    reach = max(float(gaussians.xyz.norm(dim=1).quantile(0.98)) for gaussians in moments)
    distance = max(0.3, 1.3 * reach / math.tan(math.radians(FIELD_OF_VIEW / 2)) + 0.5 * reach)  # what is nearer looks larger
    pose = {"position": [distance * 0.94, distance * 0.34, 0.0], "target": [0, 0, 0], "fov": FIELD_OF_VIEW}
    off = {
        "sharpness": {"enabled": False, "amount": 0}, "bloom": {"enabled": False, "intensity": 1, "blurLevel": 2},
        "grading": {"enabled": False, "brightness": 0, "contrast": 1, "saturation": 1, "tint": [1, 1, 1]},
        "vignette": {"enabled": False, "intensity": 0.5, "inner": 0.3, "outer": 0.75, "curvature": 1},
        "fringing": {"enabled": False, "intensity": 0.5},
    }  # fmt: skip
    return {
        "version": 2, "tonemapping": "none", "highPrecisionRendering": False, "background": {"color": [1, 1, 1]},
        "postEffectSettings": off, "animTracks": [], "cameras": [{"initial": pose}], "annotations": [], "startMode": "default",
    }  # fmt: skip
