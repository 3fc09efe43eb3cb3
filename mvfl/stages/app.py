"""`mvfl app`: a page on this machine: drop a picture -> cut-out -> views -> a 3D animal that can be turned -> downloads."""

from __future__ import annotations

import html
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from mvfl.data.photos import Box, Cut
from mvfl.records.reconstructed import ModelRecord
from mvfl.runtime.files import InputError
from mvfl.runtime.progress import heard
from mvfl.runtime.reading import named_errors
from mvfl.stages.models_page import CUT_OUT
from mvfl.stages.reconstruct import Extras, reconstruct_with
from mvfl.stages.reconstructor import Reconstructor
from mvfl.stages.sources import Choice

LARGEST_FILE, LARGEST_PICTURE = "30mb", 50_000_000  # bytes that are taken; pixels that are decoded
DECODED = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
KEPT = 20  # results at a time
AS_IT_IS, LOOK_FOR_IT, IN_A_BOX = "it is cut out, or on white", "look for the animal", "in the box below"
KNOWN_HEIGHT, UNKNOWN_HEIGHT = "as the model's cameras", "unknown: try 0, 15, 30 and 60 degrees"
HEIGHTS = (0.0, 15.0, 30.0, 60.0)


@dataclass(frozen=True)
class Shown:
    """What the page shows of one picture.

    Attributes:
        cut_out, views: pictures.
        viewer: HTML.
        figures: Markdown.
        files: to download.
    """

    cut_out: Path
    views: Path
    viewer: str
    figures: str
    files: list[Path]


def model_of(reconstructor: Reconstructor, picture: Path, out: Path, cutting: str, box: str, height: str) -> Shown:
    """Make the 3D model of an uploaded picture.

    Args:
        reconstructor: loaded once.
        picture: as it was uploaded.
        out: folder for the results.
        cutting: `AS_IT_IS`, `LOOK_FOR_IT` or `IN_A_BOX`.
        box: left, top, width, height, where it is asked for.
        height: `KNOWN_HEIGHT` or `UNKNOWN_HEIGHT`.

    Raises:
        InputError: nothing can be made of the picture; a sentence for the person.
    """
    with named_errors(picture, "a picture", "save it as PNG or JPEG"), Image.open(picture, formats=DECODED) as header:
        pixels = header.width * header.height
    if pixels > LARGEST_PICTURE:
        raise InputError(
            f"The picture has {pixels / 1e6:.0f} million pixels, more than {LARGEST_PICTURE / 1e6:.0f}: make it smaller."
        )
    cut = Cut(box=_box(box)) if cutting == IN_A_BOX else Cut(auto=cutting == LOOK_FOR_IT)
    choice = Choice(cut=cut, reframe=True, elevations=HEIGHTS if height == UNKNOWN_HEIGHT else ())
    with heard() as said:
        reconstruct_with(reconstructor, [picture], out, choice, Extras())
    record = ModelRecord.read(out / "model.json")
    viewer = html.escape((out / "viewer.html").read_text(encoding="utf-8"), quote=True)
    frame = f'<iframe srcdoc="{viewer}" title="The 3D model, to be turned" style="width:100%;height:460px;border:0"></iframe>'
    files = [out / name for name in ("gaussians.ply", "viewer.html", "models.csv", "turntable.gif")]
    return Shown(out / CUT_OUT, out / "views.png", frame, _figures(record, said), files)


def _box(text: str) -> Box:
    try:
        left, top, width, height = (int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"The box takes four whole numbers, left,top,width,height; got {text!r}.") from None
    return left, top, width, height


def _figures(record: ModelRecord, said: list[str]) -> str:
    """What was measured, and what was said on the way, as Markdown."""
    lines = [f"**{sentence}**" for sentence in said if sentence.startswith("Warning")]
    if record.agreement < 0.7:
        lines.append("**The model does not show the outline of the picture: do not trust it. Look at the cut-out.**")
    lines.append(f"Outline as photographed: {record.agreement:.0%}. {record.gaussians} Gaussians.")
    if record.elevation is not None:
        lines.append(f"Of the heights tried, a camera {record.elevation:.0f} degrees above the horizon fits best.")
    return "\n\n".join(lines)


def build(reconstructor: Reconstructor, folder: Path) -> Any:
    """The page, as Gradio's Blocks.

    Args:
        reconstructor: loaded once.
        folder: gets a folder per picture.

    Raises:
        InputError: Gradio is not installed.
    """
    if importlib.util.find_spec("gradio") is None:
        raise InputError("mvfl app needs Gradio: install mvfl[app].")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    import gradio

    def make(picture: str | None, cutting: str, box: str, height: str) -> list[Any]:
        if picture is None:
            raise gradio.Error("Drop a picture first.")
        for older in sorted(folder.iterdir(), key=lambda place: place.stat().st_mtime)[:-KEPT]:
            shutil.rmtree(older, ignore_errors=True)
        try:
            shown = model_of(
                reconstructor, Path(picture), Path(tempfile.mkdtemp(dir=folder)) / Path(picture).stem, cutting, box, height
            )
        except InputError as error:
            raise gradio.Error(str(error)) from error
        return [str(shown.cut_out), str(shown.views), shown.viewer, shown.figures, [str(file) for file in shown.files]]

    with gradio.Blocks(title="mvfl", analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        gradio.Markdown("# One picture of a mouse to a 3D animal\nNothing leaves this machine. What no camera saw is guessed.")
        with gradio.Row():
            with gradio.Column():
                picture = gradio.File(label="picture", file_types=[".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"])
                cutting = gradio.Radio([AS_IT_IS, LOOK_FOR_IT, IN_A_BOX], value=AS_IT_IS, label="the animal")
                box = gradio.Textbox(label="box: left,top,width,height in pixels", value="")
                height = gradio.Radio([KNOWN_HEIGHT, UNKNOWN_HEIGHT], value=KNOWN_HEIGHT, label="height of the camera")
                button = gradio.Button("Make the 3D model", variant="primary")
            cut_out = gradio.Image(label="the picture, cut out", interactive=False)
        viewer, figures = gradio.HTML(label="3D model"), gradio.Markdown()
        views = gradio.Image(label="the picture, and the views that were drawn of it", interactive=False)
        files = gradio.File(label="downloads", file_count="multiple", interactive=False)
        button.click(make, [picture, cutting, box, height], [cut_out, views, viewer, figures, files], concurrency_limit=1)
    return page


def serve(learned: Path | None, host: str, port: int, opened: Callable[[str], None]) -> None:
    """Load the weights and serve the page until the process is ended.

    Args:
        learned: experiment or base; default: the base that ships with mvfl.
        host: address to listen at.
        port: to listen at.
        opened: is told the address.

    Raises:
        InputError: Gradio is not installed, or the port is taken.
    """
    with tempfile.TemporaryDirectory(prefix="mvfl-app-") as place:
        page = build(Reconstructor.load(learned), Path(place))
        import gradio

        theme = gradio.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"])  # no fonts of other servers
        try:
            _, address, _ = page.queue(max_size=20).launch(
                server_name=host, server_port=port, share=False, quiet=True, prevent_thread_lock=True, theme=theme, ssr_mode=False,
                max_file_size=LARGEST_FILE, allowed_paths=[place], footer_links=[], enable_monitoring=False, mcp_server=False,
            )  # fmt: skip
        except OSError as error:
            raise InputError(f"Port {port} of {host} cannot be used: {error}. Name another one with --port.") from error
        opened(address)
        page.block_thread()
