"""Which views of a many-camera sample GS-LRM sees and is scored on; the published loader's behaviour as options.

Draws come from Python's `random`, as in the original, so that its choices can be repeated from a seed.
"""

from __future__ import annotations

import math
import random
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from PIL import Image
from torch import Tensor, from_numpy

OVERLAP_DEGREES = 60.0
TRIES = 100


class ViewChoice(NamedTuple):
    """View indices of one sample.

    Attributes:
        inputs: seen by the network.
        targets: supervised beyond the inputs.
    """

    inputs: list[int]
    targets: list[int]


def choose_views(
    positions: np.ndarray, views: int, input_views: int, maximize_overlap: bool, sort: bool, draws: random.Random
) -> ViewChoice:
    """Choose `views` of the available cameras, the first `input_views` of them as inputs.

    With `maximize_overlap` the inputs are drawn from all cameras and the rest among the other cameras whose position
    has a dot product of at least cos 60 degrees with some input's. The positions are not normalised, as published: at
    distance 2.7 the limit is about 86 degrees. Inputs with too few such cameras are drawn again (the published loader ends there).

    Args:
        positions: camera centres [camera, 3], world units.
        views, input_views: how many.
        maximize_overlap: see above; otherwise all are drawn at once.
        sort: sort inputs and targets, as every published configuration does.
        draws: source of randomness.

    Raises:
        ValueError: no inputs were found that enough cameras overlap with.
    """
    cameras = range(len(positions))
    if maximize_overlap:
        for _ in range(TRIES):
            inputs = draws.sample(cameras, input_views)
            near = positions @ positions[inputs].T >= math.cos(math.radians(OVERLAP_DEGREES))
            candidates = [c for c in cameras if c not in inputs and near[c].any()]
            if len(candidates) >= views - input_views:
                break
        else:
            raise ValueError(
                f"No {input_views} inputs have {views - input_views} other cameras that overlap with them; lower "
                "gslrm.target_views or use another view_choice."
            )
        targets = draws.sample(candidates, views - input_views)
    else:
        chosen = draws.sample(cameras, views)
        inputs, targets = chosen[:input_views], chosen[input_views:]
    return ViewChoice(sorted(inputs), sorted(targets)) if sort else ViewChoice(inputs, targets)


def paste_over(picture: Image.Image, size: int, grey: int, keep_alpha: bool) -> Float[Tensor, "channel height width"]:
    """An RGBA picture resized with Lanczos and pasted over a grey level in 8 bit, as the published loader does.

    Args:
        picture: RGBA.
        size: pixels per side.
        grey: 255 white, 0 black, 127 gray.
        keep_alpha: append the mask as a fourth channel.
    """
    rgba = picture.resize((size, size), Image.Resampling.LANCZOS)
    background = Image.new("RGB", rgba.size, (grey, grey, grey))
    background.paste(rgba, mask=rgba.getchannel("A"))
    channels = [np.asarray(background)]
    if keep_alpha:
        channels.append(np.asarray(rgba.getchannel("A"))[..., None])
    return from_numpy(np.concatenate(channels, axis=2)).permute(2, 0, 1).float() / 255
