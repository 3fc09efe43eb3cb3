"""Which views GS-LRM sees and is scored on: the published loader's choice, and that targets overlap with the inputs."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch
from parity import parity_file, parity_tensors
from PIL import Image

from mvfl.geometry.cameras import ORBIT_DISTANCE, orbit_camera
from mvfl.gslrm.view_choice import choose_views, paste_over

RING = np.array([orbit_camera(15.0 * i, 20.0).position for i in range(24)])  # at distance 2.7, as the published data
SEEDS = range(200)


@pytest.mark.parametrize("name", ["published", "overlap_unsorted", "plain"])
def test_the_view_choice_of_the_original_loader_is_repeated_from_its_seed(name: str) -> None:
    table = json.loads(parity_file("data_tiny/datasets.json").read_text())[name]
    stored = parity_tensors("data_tiny/datasets.safetensors")
    w2c = stored["gs.cameras.w2c"].numpy()
    positions = np.linalg.inv(w2c)[:, :3, 3]
    settings = table["overrides"]
    choice = choose_views(
        positions, table["num_views"], table["num_input_views"],
        settings.get("training.dataset.maximize_view_overlap", True), settings.get("inference", True),
        random.Random(table["python_random_seed"]),
    )  # fmt: skip
    assert [*choice.inputs, *choice.targets] == table["chosen"]
    grey = 127 if settings.get("training.dataset.background_color") == "gray" else 255
    keep_alpha = not settings.get("training.dataset.remove_alpha", False)
    for i, view in enumerate(table["chosen"]):
        picture = Image.fromarray(stored["rgba_u8"][view].numpy())
        got = paste_over(picture, table["image_size"], grey, keep_alpha)
        torch.testing.assert_close(got, stored[f"gs.{name}.image"][i], atol=1e-6, rtol=0)


def angle_to_nearest_input(camera: int, inputs: list[int]) -> float:
    """Degrees between the places of a camera and of the nearest input, seen from the origin."""
    cosines = RING[inputs] @ RING[camera] / ORBIT_DISTANCE**2
    return float(np.degrees(np.arccos(np.clip(cosines, -1, 1))).min())


@pytest.mark.parametrize("inputs", [1, 2])
def test_cameras_behind_the_inputs_are_never_targets_where_overlap_is_asked_for(inputs: int) -> None:
    """The published limit: a dot product of cos 60 degrees, of places 2.7 away from the origin, which is 86 degrees."""
    seen, free = set(), set()
    for seed in SEEDS:
        chosen = choose_views(RING, inputs + 6, inputs, True, True, random.Random(seed))
        assert len(chosen.inputs) == inputs and len(set(chosen.targets) - set(chosen.inputs)) == 6
        assert all((RING[chosen.inputs] @ RING[t]).max() >= 0.5 for t in chosen.targets), chosen
        seen |= {angle_to_nearest_input(t, chosen.inputs) for t in chosen.targets}
        other = choose_views(RING, inputs + 6, inputs, False, True, random.Random(seed))
        free |= {angle_to_nearest_input(t, other.inputs) for t in other.targets}
    assert 70 < max(seen) < 87 < 120 < max(free), "without the rule cameras behind the inputs are drawn"


def test_inputs_with_too_few_overlapping_cameras_are_drawn_again() -> None:
    """On a ring of six, three neighbours see too little of the other side."""
    six = 2.7 * np.array([[np.cos(a), np.sin(a), 0] for a in np.arange(6) * np.pi / 3])
    chosen = [choose_views(six, 6, 3, True, True, random.Random(seed)) for seed in range(50)]
    assert all(len(c.targets) == 3 for c in chosen) and len({tuple(c.inputs) for c in chosen}) > 5


def test_too_few_overlapping_cameras_are_refused() -> None:
    with pytest.raises(ValueError, match="No 1 inputs have 20 other cameras that overlap with them"):
        choose_views(RING, 21, 1, True, True, random.Random(0))
    assert len(choose_views(RING, 21, 1, False, True, random.Random(0)).targets) == 20
