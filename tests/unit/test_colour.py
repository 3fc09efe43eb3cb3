"""Colour drift: whether drawn animals have the colours of the recorded ones."""

from __future__ import annotations

import pytest
import torch

from mvfl.metrics.colour import colour_drift


def animal(colour: tuple[float, float, float], columns: slice = slice(8, 24)) -> tuple[torch.Tensor, torch.Tensor]:
    """A square of one colour over white, and its mask."""
    picture, mask = torch.ones(3, 32, 32), torch.zeros(1, 32, 32)
    picture[:, 8:24, columns] = torch.tensor(colour)[:, None, None]
    mask[:, 8:24, columns] = 1
    return picture, mask


def drift(
    drawn: tuple[float, float, float], recorded: tuple[float, float, float], columns: slice = slice(8, 24)
) -> dict[str, float]:
    picture, mask = animal(recorded)
    found = colour_drift(animal(drawn, columns)[0][None], picture[None], mask[None])
    assert found is not None
    return found


def test_equal_colours_do_not_differ_wherever_the_animal_stands() -> None:
    assert drift((0.3, 0.25, 0.2), (0.3, 0.25, 0.2), slice(2, 12))["delta_e"] == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize(
    ("drawn", "axis", "sign"),
    [((0.6, 0.6, 0.6), "lightness", 1), ((0.2, 0.2, 0.2), "lightness", -1), ((0.5, 0.5, 0.25), "blue_yellow", 1), ((0.6, 0.35, 0.4), "green_red", 1)],
)  # fmt: skip
def test_the_direction_of_a_drift_is_named(drawn: tuple[float, float, float], axis: str, sign: int) -> None:
    assert sign * drift(drawn, (0.4, 0.4, 0.4))[axis] > 5


def test_lightness_is_that_of_cielab() -> None:
    """Mid grey, sRGB 119 of 255, is L* = 50."""
    assert drift((119 / 255,) * 3, (0.0, 0.0, 0.0))["lightness"] == pytest.approx(50, abs=0.2)


def test_where_nothing_was_drawn_there_is_no_colour() -> None:
    picture, mask = animal((0.4, 0.4, 0.4))
    assert colour_drift(torch.ones(1, 3, 32, 32), picture[None], mask[None]) is None
