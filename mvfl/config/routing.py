"""From decisions to experiments: what the workflow runs next, and when it ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mvfl.config.strict import Case
from mvfl.config.workflow import WorkflowConfig


@dataclass(frozen=True)
class Route:
    """Experiments in the order they were judged.

    Attributes:
        visited: (experiment, case) pairs.
        converged: the experiment that reached case A, or None when no experiment is left to try.
    """

    visited: list[tuple[str, Case]]
    converged: str | None


def evaluation_step(config: WorkflowConfig, experiment: str) -> int:
    """Optimiser step at which an experiment is judged."""
    return config.experiments[experiment].evaluation_step or config.evaluation.step


def drawing_step(config: WorkflowConfig, experiment: str) -> int:
    """Optimiser step whose weights draw the synthetic views."""
    return config.experiments[experiment].synthetic.step or evaluation_step(config, experiment)


def segment_ends(config: WorkflowConfig, experiment: str) -> list[int]:
    """Steps at which training is cut: curriculum boundaries, the verdict, the step to draw with, and the end."""
    e = config.experiments[experiment]
    boundaries = [p.until_step for p in e.curriculum]
    return sorted({*boundaries, evaluation_step(config, experiment), drawing_step(config, experiment), e.training.steps})


def ending(config: WorkflowConfig, route: Route) -> str:
    """How a way ended, in a sentence; where no experiment converged, also which ones were never tried and why."""
    if route.converged:
        return f"{route.converged} converged (case A)."
    name, case = route.visited[-1]
    visited = [n for n, _ in route.visited]
    untried = [f"{n} (case {c})" for c, n in config.cases.items() if n not in visited]
    why = (
        f"goes on with {config.cases[case]}, which was tried before"
        if case in config.cases
        else "names no experiment to go on with"
    )
    left = f" Not tried, since no decision led there: {', '.join(untried)}." if untried else ""
    return f"No experiment converged. {name} is case {case}, which {why}.{left}"


def follow(config: WorkflowConfig, case_of: Callable[[str], Case]) -> Route:
    """Follow the decisions from the first experiment on.

    Case A ends the way; B, C and D go to the experiment that `cases:` names. An experiment is never visited twice.

    Args:
        config: names the first experiment and the cases.
        case_of: decision of an experiment; may raise to say that it is not known yet.
    """
    visited: list[tuple[str, Case]] = []
    name = config.experiment
    while name not in [v[0] for v in visited]:
        case = case_of(name)
        visited.append((name, case))
        if case == "A":
            return Route(visited, name)
        if case not in config.cases:
            return Route(visited, None)
        name = config.cases[case]
    return Route(visited, None)
