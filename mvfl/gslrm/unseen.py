"""Which cameras GS-LRM is judged by: such as no input had. Where a recording has no spare ones, each is left out in turn.

A 3D model that is scored by the cameras that it was made from could be a bundle of billboards.
"""

from __future__ import annotations

from typing import NamedTuple


class Fold(NamedTuple):
    """Views of one sample.

    Attributes:
        inputs: that the network sees, indices among the rig's.
        targets: that judge it, indices among all of the recorded sample's.
    """

    inputs: list[int]
    targets: list[int]


def chosen_inputs(views: int, input_views: int | None, reference: int | None = None) -> list[int]:
    """Views that the network sees: the first ones, and in any case the photograph that the others were drawn of.

    Args:
        views: of the sample that inputs are.
        input_views: most inputs; None = all.
        reference: view of the photograph; None where all are recorded.
    """
    most = min(views, input_views or views)
    return list(range(most)) if reference is None or reference < most else [*range(most - 1), reference]


def unseen_fold(views: int, recorded: int, input_views: int | None, number: int, reference: int | None = None) -> Fold:
    """Inputs and targets without a common camera.

    Args:
        views: of the rig.
        recorded: all views of the sample; those beyond the rig's are spare cameras.
        input_views: most inputs; None = all of the rig's.
        number: of the sample; decides which camera is left out where there is no spare one.
        reference: view whose picture generated inputs were drawn from: it is no unseen one either.

    Raises:
        ValueError: a single camera, which cannot be left out.
    """
    seen = chosen_inputs(views, input_views, reference)
    if recorded > views:
        return Fold(seen, list(range(views, recorded)))
    if rest := [v for v in range(views) if v not in seen and v != reference]:
        return Fold(seen, rest)
    candidates = [v for v in seen if v != reference]
    if len(seen) < 2 or not candidates:
        raise ValueError("One camera alone cannot judge a 3D model; at least two are needed.")
    left_out = candidates[number % len(candidates)]
    return Fold([v for v in seen if v != left_out], [left_out])
