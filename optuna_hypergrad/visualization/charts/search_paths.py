"""The paths of gradient searches through two hyperparameters."""

from __future__ import annotations

from collections.abc import Sequence

from optuna_hypergrad.samplers.history import OuterStep
from optuna_hypergrad.visualization.charts import colors
from optuna_hypergrad.visualization.charts.marks import Dash, Line, Mark, Points
from optuna_hypergrad.visualization.charts.plane import Plane
from optuna_hypergrad.visualization.charts.searches import LEFT, told, told_left

NAMED = 8  # searches; the legend of more would be longer than the figure is high
DASHES: tuple[Dash, ...] = ("solid", "dash", "dot")  # once all colours are taken


def search_paths(steps: Sequence[OuterStep], plane: Plane, best: OuterStep | None) -> list[Mark]:
    """The accepted steps of each search, joined; those that it came back from as crosses."""
    marks: list[Mark] = []
    chains = sorted({step.chain for step in steps})
    for i, chain in enumerate(chains):
        name = f"search {chain}" if len(chains) <= NAMED else "searches"
        path = [s for s in steps if s.chain == chain and s.verdict == "accepted"]
        dash = DASHES[i // len(colors.CYCLE) % len(DASHES)]
        marks += _path(path, plane, colors.cycled(i), dash, name)
    if back := [step for step in steps if step.status in LEFT]:
        found = [(step.params, told(step)) for step in back]
        marks += plane.points("came back from", found, told_left(back))
    best_of_all = [] if best is None else [(best.params, told(best))]
    return marks + plane.points("best of the searches", best_of_all)


def _path(path: Sequence[OuterStep], plane: Plane, color: str, dash: Dash, name: str) -> list[Mark]:
    if not path:
        return []
    x, y = zip(*(plane.at(step.params) for step in path), strict=True)
    line = Line(x, y, color, name, dash, texts=[told(step) for step in path])
    start = plane.points("start", [(path[0].params, told(path[0]))])
    return [line, Points(x, y, color, size=3.0), *start]
