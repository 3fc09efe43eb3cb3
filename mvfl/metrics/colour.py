"""Whether drawn animals have the colours of the recorded ones: the drift of the mean colour in CIELAB."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from mvfl.metrics.image import predicted_mask

AXES = ("lightness", "green_red", "blue_yellow")


def mean_lab(picture: Float[Tensor, "3 height width"], mask: Bool[Tensor, "height width"]) -> Float[np.ndarray, "3"]:
    """Mean L*, a*, b* (D65) of the pixels of a mask; NaN where it is empty.

    Args:
        picture: sRGB in 0..1.
        mask: of the animal.
    """
    lab = cv2.cvtColor(np.ascontiguousarray(picture.permute(1, 2, 0).cpu().numpy(), np.float32), cv2.COLOR_RGB2LAB)
    inside = lab[mask.cpu().numpy()]
    return inside.mean(0) if len(inside) else np.full(3, np.nan)


def colour_drift(
    drawn: Float[Tensor, "n 3 height width"], recorded: Float[Tensor, "n 3 height width"], alphas: Float[Tensor, "n 1 height width"]
) -> dict[str, float] | None:
    """How much lighter, redder and yellower drawn animals are than recorded ones, in the mean.

    Args:
        drawn, recorded: over white, sRGB in 0..1.
        alphas: masks of the recorded animals.

    Returns:
        Mean difference along each of `AXES`, and `delta_e`, the mean distance of the two colours (CIE 1976; 2.3 can just be seen).
        None where nothing was drawn.
    """
    differences = []
    for picture, truth, alpha in zip(drawn, recorded, alphas, strict=True):
        difference = mean_lab(picture, predicted_mask(picture[None])[0, 0]) - mean_lab(truth, alpha[0] > 0.5)
        if np.isfinite(difference).all():
            differences.append(difference)
    if not differences:
        return None
    table = np.stack(differences)
    means = {axis: float(v) for axis, v in zip(AXES, table.mean(0), strict=True)}
    return {**means, "delta_e": float(np.linalg.norm(table, axis=1).mean())}
