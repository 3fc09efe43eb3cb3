"""Pictures for people: grids of views with labels, loss curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from mvfl.runtime.files import written_aside

matplotlib.use("Agg")
MIN_CELL = 160  # smallest cell side in pixels, so that small pictures can be judged by eye


def to_pil(image: Float[Tensor, "3 height width"], side: int | None = None) -> Image.Image:
    """An 8-bit picture, enlarged with Lanczos to `side` where given."""
    array = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    picture = Image.fromarray(np.ascontiguousarray(array))
    return picture if side is None else picture.resize((side, side), Image.Resampling.LANCZOS)


def save_grid(path: Path, rows: Sequence[tuple[str, Float[Tensor, "_ 3 height width"]]], columns: Sequence[str] = ()) -> None:
    """Write rows of views with a label each and column headings.

    Args:
        path: PNG.
        rows: label and pictures in 0..1.
        columns: headings.
    """
    side = max(MIN_CELL, rows[0][1].shape[-1])
    left, top = 92, 22 if columns else 0
    count = max(len(r[1]) for r in rows)
    sheet = Image.new("RGB", (left + count * side, top + len(rows) * side), "white")
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(13)
    for j, text in enumerate(columns):
        pen.text((left + j * side + 4, 3), text, fill="black", font=font)
    for i, (label, pictures) in enumerate(rows):
        pen.multiline_text((4, top + i * side + side // 2 - 8), label.replace(" ", "\n"), fill="black", font=font)
        for j, picture in enumerate(pictures):
            sheet.paste(to_pil(picture, side), (left + j * side, top + i * side))
        pen.line([(0, top + i * side), (sheet.width, top + i * side)], fill=(225, 225, 225))
    with written_aside(path) as temporary:
        sheet.save(temporary, "PNG", optimize=True)


def save_loss_curve(path: Path, log: Sequence[dict[str, Any]], marks: Sequence[int] = ()) -> None:
    """Training loss over optimiser steps, with a running median; `marks` are vertical lines."""
    from matplotlib import pyplot as plt

    points = [(r["step"], r["train/loss"]) for r in log if r.get("train/loss") is not None]
    figure, ax = plt.subplots(figsize=(7, 3), layout="constrained")
    if points:
        steps, losses = np.array(points).T
        ax.plot(steps, losses, color="#b9c7d6", lw=1, label="logged")
        window = max(3, len(losses) // 20)
        smooth = [np.median(losses[max(0, i - window) : i + window + 1]) for i in range(len(losses))]
        ax.plot(steps, smooth, color="#1f5a92", lw=2, label="running median")
        ax.legend(frameon=False)
    for mark in marks:
        ax.axvline(mark, color="#a33", lw=1, ls="--")
    ax.set(xlabel="optimiser step", ylabel="training loss")
    ax.spines[["top", "right"]].set_visible(False)
    with written_aside(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    plt.close(figure)
