"""From decisions to experiments: where training is cut, and what is visited next."""

from __future__ import annotations

from pathlib import Path

import pytest

from mvfl.config.load import load_config
from mvfl.config.routing import evaluation_step, follow, segment_ends

MAIN = Path(__file__).parents[2] / "workflow_config.yaml"


def test_training_is_cut_where_it_matters() -> None:
    config = load_config([MAIN])
    assert segment_ends(config, "mouse_6x_aug") == [2000, 20000]
    assert segment_ends(config, "curriculum") == [5000, 7000, 20000]
    assert evaluation_step(config, "curriculum") == 7000


@pytest.mark.parametrize(
    ("cases", "visited", "converged"),
    [
        ({"mouse_6x_aug": "A"}, ["mouse_6x_aug"], "mouse_6x_aug"),
        ({"mouse_6x_aug": "B", "facelift_prompt": "A"}, ["mouse_6x_aug", "facelift_prompt"], "facelift_prompt"),
        (
            {"mouse_6x_aug": "C", "realistic_prompt": "D", "curriculum": "A"},
            ["mouse_6x_aug", "realistic_prompt", "curriculum"],
            "curriculum",
        ),
        ({"mouse_6x_aug": "C", "realistic_prompt": "C"}, ["mouse_6x_aug", "realistic_prompt"], None),
        ({"mouse_6x_aug": "B", "facelift_prompt": "D", "curriculum": "B"}, ["mouse_6x_aug", "facelift_prompt", "curriculum"], None),
    ],
)
def test_decisions_are_followed_and_nothing_is_visited_twice(cases: dict, visited: list, converged: str | None) -> None:
    route = follow(load_config([MAIN]), cases.__getitem__)
    assert [name for name, _ in route.visited] == visited
    assert route.converged == converged
