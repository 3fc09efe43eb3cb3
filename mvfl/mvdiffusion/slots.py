"""Which view stands in which slot, and what each slot is told: words, relative poses, rays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mvfl.config.strict import ViewConditioning
from mvfl.geometry.rig import Rig
from mvfl.mvdiffusion.conditioning import TELLS_POSES, pluecker_rays, pose_features

# Directions of the prompt words front, front-right, right, back, left, front-left of the published layout.
WORD_AZIMUTHS = (0, 45, 90, 180, 270, 315)
WORDS = len(WORD_AZIMUTHS)


def slot_views(rig: Rig, reference: int, mode: ViewConditioning) -> list[int]:
    """View index of each slot.

    Relative modes and the published fixed reference put the reference into slot 0 and go round the rig;
    `absolute_prompt` (the set-up that collapsed) keeps slot i on one camera whatever the reference.
    """
    return rig.slot_order(0 if mode == "absolute_prompt" else reference)


def slot_orders(rig: Rig, mode: ViewConditioning) -> Int[np.ndarray, "reference slot"]:
    """View index of each slot for every possible reference."""
    return np.array([slot_views(rig, r, mode) for r in range(len(rig.cameras))])


def slot_words(rig: Rig, order: Sequence[int]) -> list[int]:
    """Prompt word of each slot: the direction nearest to its camera's, going round with falling azimuth from the first slot's."""
    azimuths = [rig.cameras[view].spherical[0] for view in order]
    ways = [(azimuths[0] - a) % 360 for a in azimuths]
    apart = [[abs((way - word + 180) % 360 - 180) for word in WORD_AZIMUTHS] for way in ways]
    return [distances.index(min(distances)) for distances in apart]


def slot_directions(rig: Rig, mode: ViewConditioning, references: Sequence[int]) -> list[str] | None:
    """Where each slot's camera stands as seen from the input's, in words; None where that differs between the inputs.

    Args:
        rig: cameras.
        mode: how slots are ordered.
        references: views that were inputs.
    """
    tables = set()
    for reference in set(references):
        order = slot_views(rig, reference, mode)
        turns = [(rig.cameras[view].spherical[0] - rig.cameras[reference].spherical[0] + 180) % 360 - 180 for view in order]
        tables.add(tuple(_direction(round(turn)) for turn in turns))
    return list(tables.pop()) if len(tables) == 1 else None


def _direction(turn: int) -> str:
    """A camera that stands `turn` degrees on, counted against the clock as seen from above: to the right of the one that looks."""
    if turn == 0:
        return "input"
    return "opposite" if abs(turn) >= 175 else f"{abs(turn)}\N{DEGREE SIGN} to the {'right' if turn > 0 else 'left'}"


class Told(NamedTuple):
    """What the slots of some objects are told; N = objects x slots, slot fastest.

    Attributes:
        words: prompt word per slot [N].
        poses: relative poses, where the mode tells them.
        rays: Pluecker rays, where the mode tells them.
    """

    words: list[int]
    poses: Float[Tensor, "n feature"] | None
    rays: Float[Tensor, "n 6 h w"] | None


def tell(
    mode: ViewConditioning, rig: Rig, objects: Sequence[tuple[Float[np.ndarray, "view 16"], Sequence[int]]], side: int
) -> Told:
    """What each slot of some objects is told.

    Args:
        mode: how cameras are told.
        rig: names directions, for the prompt words.
        objects: own cameras of each (rows of `camera_rows`), and view index per slot, the input's first.
        side: latent pixels per side.
    """
    words = [word for _, order in objects for word in slot_words(rig, order)]
    poses = torch.cat([pose_features(*o) for o in objects]) if mode in TELLS_POSES else None
    rays = torch.cat([pluecker_rays(*o, side) for o in objects]) if mode == "rays" else None
    return Told(words, poses, rays)
