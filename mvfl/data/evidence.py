"""Do pictures and cameras belong together? What all moments of a data set say together, and which camera is to blame.

A wrong order of cameras can fit a single moment nearly as well as the right one. Over many moments the right one wins clearly, or
the rig is so symmetric that silhouettes cannot tell; then that is said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations

import numpy as np

from mvfl.data.silhouettes import Silhouette, carve_body
from mvfl.geometry.lens import LensCamera
from mvfl.records.manifest import evenly
from mvfl.runtime.files import InputError

MOMENTS = 24  # whose silhouettes are compared under every alternative
FIRST_LOOK = 6  # of them; alternatives that fit far worse in these are dropped
FAR_WORSE = 0.12  # of overlap
CLEARLY = 0.01  # of overlap: less difference tells nothing
STANDARD_ERRORS = 3.0
MOST_CAMERAS = 8  # all pairs of more cameras would be too many; then the worst fitting are tried
ODD = 0.15  # of overlap below the median
LEAST_AREA = 150  # pixels of an animal; silhouettes of fewer cannot tell cameras apart


@dataclass(frozen=True)
class Moment:
    """What all cameras saw at one time.

    Attributes:
        name: of the frame or sample.
        silhouettes, cameras: one per view.
    """

    name: str
    silhouettes: Sequence[Silhouette]
    cameras: Sequence[LensCamera]

    def overlap(self) -> float:
        """How well the silhouettes fit one body."""
        return carve_body(self.silhouettes, self.cameras).overlap

    def without(self, view: int) -> Moment:
        """The same without one view."""
        rest = [v for v in range(len(self.cameras)) if v != view]
        return Moment(self.name, [self.silhouettes[v] for v in rest], [self.cameras[v] for v in rest])

    def turned(self) -> Moment:
        """All pictures turned by 180 degrees."""
        return replace(self, silhouettes=[s.turned() for s in self.silhouettes])

    def mirrored(self) -> Moment:
        """All pictures mirrored left to right."""
        return replace(self, silhouettes=[s.mirrored() for s in self.silhouettes])

    def showing(self, order: Sequence[int]) -> Moment:
        """The picture of view `order[i]` in the place of view i."""
        return replace(self, silhouettes=[self.silhouettes[v] for v in order])


@dataclass(frozen=True)
class Alternative:
    """A mistake that may have been made.

    Attributes:
        sentence: what was done, if this fits better.
        undone: a moment as it would be without the mistake.
    """

    sentence: str
    undone: Callable[[Moment], Moment]


def alternatives(moment: Moment, worst: Sequence[int]) -> Iterator[Alternative]:
    """Mistakes of order and of orientation.

    Args:
        moment: any; tells names and sizes.
        worst: views, the worst fitting first.
    """
    views = len(moment.cameras)
    names = [c.name for c in moment.cameras]
    among = range(views) if views <= MOST_CAMERAS else sorted(worst[: MOST_CAMERAS // 2])
    for a, b in combinations(among, 2):
        if moment.silhouettes[a].size == moment.silhouettes[b].size:
            order = list(range(views))
            order[a], order[b] = b, a
            yield Alternative(
                f"the pictures of cameras {names[a]} and {names[b]} are swapped", partial(Moment.showing, order=order)
            )
    if len({s.size for s in moment.silhouettes}) == 1:
        for turn in range(1, views) if views <= MOST_CAMERAS else (1, views - 1):
            order = [(v + turn) % views for v in range(views)]
            sentence = f"every picture stands {turn} places too late in the order of cameras"
            yield Alternative(sentence, partial(Moment.showing, order=order))
    yield Alternative("all pictures are turned by 180 degrees", Moment.turned)
    yield Alternative("all pictures are mirrored", Moment.mirrored)


@dataclass(frozen=True)
class OrderFinding:
    """Result of `judge_order`.

    Attributes:
        overlap: mean over moments, with the cameras as given.
        undecided: mistakes that fit as well as what was given.
        nearest: the best other order's overlap.
    """

    overlap: float
    undecided: list[str]
    nearest: float


def judge_order(moments: Sequence[Moment], what: str) -> OrderFinding:
    """The given order of cameras must fit better than every mistake, over all moments together.

    Args:
        moments: of the data set; some are chosen.
        what: to name in the error, for example the pattern of the videos.

    Raises:
        InputError: a mistake fits clearly better than what was given.
    """
    chosen = evenly(list(moments), MOMENTS)
    given = [carve_body(m.silhouettes, m.cameras) for m in chosen]
    own = np.array([g.overlap for g in given])
    worst = np.argsort(np.mean([g.overlaps for g in given], axis=0)).tolist()
    look = np.linspace(0, len(chosen) - 1, min(FIRST_LOOK, len(chosen))).round().astype(int)
    undecided, nearest = [], 0.0
    for mistake in alternatives(chosen[0], worst):
        first = np.array([mistake.undone(chosen[i]).overlap() for i in look])
        nearest = max(nearest, float(first.mean()))
        if first.mean() < own[look].mean() - FAR_WORSE:
            continue
        ahead = np.array([mistake.undone(m).overlap() for m in chosen]) - own
        error = ahead.std() / max(1, len(ahead) - 1) ** 0.5
        if ahead.mean() > max(CLEARLY, STANDARD_ERRORS * error):
            raise InputError(
                f"{what}: pictures and cameras do not belong together; it looks as if {mistake.sentence} (silhouettes then fit one "
                f"body by {own.mean() + ahead.mean():.2f}, as given by {own.mean():.2f}). Put the pictures to their own cameras."
            )
        if ahead.mean() > -max(CLEARLY, STANDARD_ERRORS * error):
            undecided.append(mistake.sentence)
    return OrderFinding(float(own.mean()), undecided, nearest)


def culprit(moments: Sequence[Moment]) -> tuple[str, float, float] | None:
    """The camera without which all others agree best.

    Returns:
        Its name, the overlap of the others without it, and the next best camera's; None with three cameras or fewer, which
        cannot tell.
    """
    chosen = evenly(list(moments), FIRST_LOOK)
    views = len(chosen[0].cameras)
    if views < 4:
        return None
    rest = [float(np.mean([m.without(v).overlap() for m in chosen])) for v in range(views)]
    ranked = np.argsort(rest)[::-1]
    return chosen[0].cameras[ranked[0]].name, rest[ranked[0]], rest[ranked[1]]


def twins(silhouettes: Sequence[Silhouette]) -> tuple[int, int] | None:
    """Two views that show exactly the same pixels, which no two cameras do."""
    for a, b in combinations(range(len(silhouettes)), 2):
        one, other = silhouettes[a], silhouettes[b]
        if one.corner == other.corner and one.area > LEAST_AREA and np.array_equal(one.bits, other.bits):
            return a, b
    return None


def judge_late_views(moments: Sequence[Moment], what: str) -> None:
    """Each view must fit its own sample better than the sample before or after: a camera that is late fits another one.

    Raises:
        InputError: names the view.
    """
    starts = evenly(list(range(1, len(moments) - 1)), FIRST_LOOK)
    if len(starts) < FIRST_LOOK:
        return
    own = np.array([moments[t].overlap() for t in starts])
    for view in range(len(moments[0].cameras)):
        for step, word in ((1, "early"), (-1, "late")):
            other = np.array([_with_view_of(moments[t], moments[t - step], view).overlap() for t in starts])
            ahead = other - own
            error = ahead.std() / (len(ahead) - 1) ** 0.5
            if ahead.mean() > max(CLEARLY, STANDARD_ERRORS * error):
                raise InputError(
                    f"{what}: {moments[0].cameras[view].name} is {word} by a sample: its pictures fit the sample "
                    f"{'before' if step > 0 else 'after'} better than their own. Synchronise it with the others."
                )


def _with_view_of(moment: Moment, other: Moment, view: int) -> Moment:
    """A moment in which one view's picture, with its camera, is of another moment."""
    silhouettes, cameras = list(moment.silhouettes), list(moment.cameras)
    silhouettes[view], cameras[view] = other.silhouettes[view], other.cameras[view]
    return Moment(moment.name, silhouettes, cameras)


def odd_moments(moments: Sequence[Moment], overlaps: Sequence[float]) -> str | None:
    """A sentence where single moments fit far worse than the rest: views of another time, or a broken mask."""
    if len(overlaps) < FIRST_LOOK:
        return None
    values = np.array(overlaps)
    middle = float(np.median(values))
    limit = middle - max(ODD, 8 * float(np.median(np.abs(values - middle))))
    odd = [i for i in np.argsort(values) if values[i] < limit]
    if not odd:
        return None
    first = moments[odd[0]]
    found = carve_body(first.silhouettes, first.cameras)
    views = ", ".join(first.cameras[v].name for v in np.argsort(found.overlaps)[:2])
    return (
        f"{len(odd)} of {len(moments)} samples fit their cameras far worse than the rest (overlap {values[odd[0]]:.2f}, median "
        f"{middle:.2f}): {', '.join(moments[i].name for i in odd[:5])}{' ...' if len(odd) > 5 else ''}. In {first.name} look at "
        f"{views} first: a picture of another time, a wrong mask or a moved camera."
    )
