"""Pages for people: a single HTML file each, that opens from disk without a network."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from mvfl.runtime.files import write_text


def inline(picture: Path | bytes) -> str:
    """A picture (PNG bytes, or a PNG or GIF file) as an address inside the page."""
    kind = "gif" if isinstance(picture, Path) and picture.suffix == ".gif" else "png"
    content = picture.read_bytes() if isinstance(picture, Path) else picture
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def links(page: Path, targets: Mapping[str, Path]) -> dict[str, str]:
    """Addresses of those pages that exist, as seen from another one.

    Args:
        page: that is written.
        targets: pages by what they are called.
    """
    return {name: quote(os.path.relpath(target, page.parent)) for name, target in targets.items() if target.is_file()}


def png(figure: Figure) -> bytes:
    """A figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110, format="png")
    return buffer.getvalue()


def write_page(path: Path, template: str, **values: Any) -> None:
    """Fill a template of `templates/`, all of which stand in `frame.html.j2`, and write the page.

    Args:
        path: of the page.
        template: its name without ending.
        values: what it shows; a missing one is an error.
    """
    write_text(path, rendered(f"{template}.html.j2", **values))


def rendered(template: str, **values: Any) -> str:
    """A filled template of `templates/`; a missing value is an error. HTML is escaped, Markdown is not."""
    html = template.endswith(".html.j2")
    environment = Environment(loader=PackageLoader("mvfl.stages"), autoescape=html, undefined=StrictUndefined, trim_blocks=not html)
    return environment.get_template(template).render(values)
