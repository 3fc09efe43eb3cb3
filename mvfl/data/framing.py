"""How an animal stands in its picture, and how a picture of another camera is brought to the same size and place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from mvfl.data.pictures import read_ahead
from mvfl.records.manifest import Manifest
from mvfl.runtime.files import InputError

FRAMING_SAMPLES = 50  # training samples that tell how animals stand in the frame
MATCHES = 5  # of their pictures, those with the most similar outlines
OUTLINE_SIDE = 32  # pixels


@dataclass(frozen=True)
class Framing:
    """How an animal stands in a square picture.

    Attributes:
        size_ratio: sqrt(foreground pixels / all pixels), the measure of size in the recorded data.
        centre: column and row of the mask's centre of mass, as shares of the side.
    """

    size_ratio: float
    centre: tuple[float, float]


def framing(alpha: Float[Tensor, "side side"]) -> Framing:
    """Framing of the animal in a mask."""
    mask = alpha > 0.5
    row, column = mask.nonzero().float().add(0.5).div(mask.shape[0]).mean(0).tolist()
    return Framing(float(mask.float().mean().sqrt()), (column, row))


def usual_framing(manifest: Manifest, rgba: Float[Tensor, "4 height width"]) -> Framing:
    """How training pictures of this outline are framed: the median of those whose silhouettes are most alike.

    A mouse seen from the front covers fewer pixels than the same mouse from the side, and its body stands elsewhere in the
    frame; the outline tells which of them this is.
    """
    wanted, known, alike = _outline(rgba), [], []
    for picture in training_pictures(manifest):
        outline = _outline(picture)
        known.append(framing(picture[3]))
        alike.append(float(torch.minimum(outline, wanted).sum() / torch.maximum(outline, wanted).sum()))
    best = [known[i] for i in np.argsort(alike)[-MATCHES:]]
    rows = np.median([[f.size_ratio, *f.centre] for f in best], axis=0)
    return Framing(float(rows[0]), (float(rows[1]), float(rows[2])))


def training_pictures(manifest: Manifest) -> Iterator[Float[Tensor, "4 height width"]]:
    """RGBA of some training samples, spread over the split."""
    step = max(1, len(manifest.train) // FRAMING_SAMPLES)
    for rgba in read_ahead(manifest, manifest.train[::step][:FRAMING_SAMPLES]):
        yield from rgba


def _outline(rgba: Float[Tensor, "4 height width"]) -> Float[Tensor, "side side"]:
    """The silhouette alone, in the middle of a small picture and of one size."""
    black = torch.cat([torch.zeros_like(rgba[:3]), rgba[3:]])
    return 1 - framed(black, OUTLINE_SIDE, Framing(0.25, (0.5, 0.5)))[0]


def framed(rgba: Float[Tensor, "4 height width"], size: int, wanted: Framing | None) -> Float[Tensor, "3 size size"]:
    """The picture over white as the models know it.

    Args:
        rgba: straight alpha.
        size: pixels per side of the result.
        wanted: size and place of the animal; None keeps the frame of a square picture.

    Raises:
        InputError: a picture that is not square and is to be kept as it is.
    """
    height, width = rgba.shape[-2:]
    if wanted is None:
        if height != width:
            raise InputError(f"The picture is {width} x {height} pixels; it must be square, or use --reframe.")
        corner, side = (0.0, 0.0), float(width)
    else:
        mask = rgba[3] > 0.5
        row, column = mask.nonzero().float().add(0.5).mean(0).tolist()
        side = float(mask.sum().sqrt()) / wanted.size_ratio
        corner = (column - side * wanted.centre[0], row - side * wanted.centre[1])
    # Colours are weighted by alpha, so that nothing of the background bleeds into the outline.
    premultiplied = torch.cat([rgba[:3] * rgba[3:], rgba[3:]])
    planes = [Image.fromarray(plane.numpy()) for plane in premultiplied]
    box = (*corner, corner[0] + side, corner[1] + side)
    pad = int(np.ceil(max(0.0, -box[0], -box[1], box[2] - width, box[3] - height)))
    resized = []
    for plane in planes:
        canvas = Image.new("F", (width + 2 * pad, height + 2 * pad), 0)
        canvas.paste(plane, (pad, pad))
        shifted = tuple(v + pad for v in box)
        resized.append(np.asarray(canvas.resize((size, size), Image.Resampling.LANCZOS, box=shifted)))  # type: ignore[arg-type]
    out = torch.from_numpy(np.stack(resized)).clamp(0, 1)
    return (out[:3] + 1 - out[3:]).clamp(0, 1)
