"""The paths of gradient searches through two hyperparameters."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from optuna_hypergrad.samplers.history import OuterStep
from optuna_hypergrad.visualization.charts import colors
from optuna_hypergrad.visualization.charts.marks import Line, Mark, Points
from optuna_hypergrad.visualization.charts.plane import Plane

NAMED = 8  # searches; the legend of more would be longer than the figure is high


def search_paths(steps: Sequence[OuterStep], plane: Plane, maximize: bool) -> list[Mark]:
    """The accepted steps of each search, joined; those that it came back from as crosses."""
    marks: list[Mark] = []
    chains = sorted({step.chain for step in steps})
    for chain in chains:
        name = f"search {chain}" if len(chains) <= NAMED else "searches"
        path = [s for s in steps if s.chain == chain and s.verdict == "accepted"]
        marks += _path(path, plane, colors.cycled(chain), name)
    back = [step for step in steps if step.verdict in ("rejected", "diverged")]
    marks += plane.points("rejected", [(step.params, _told(step)) for step in back])
    return marks + plane.points("best of the searches", [*_best(steps, maximize)])


def _path(path: Sequence[OuterStep], plane: Plane, color: str, name: str) -> list[Mark]:
    if not path:
        return []
    x, y = zip(*(plane.at(step.params) for step in path), strict=True)
    line = Line(x, y, color, name, texts=[_told(step) for step in path])
    start = plane.points("start", [(path[0].params, _told(path[0]))])
    return [line, Points(x, y, color, size=3.0), *start]


def _best(steps: Sequence[OuterStep], maximize: bool) -> Iterator[tuple[Mapping[str, Any], str]]:
    sign = -1 if maximize else 1
    found = [(sign * step.value, step) for step in steps if step.value is not None]
    found = [(loss, step) for loss, step in found if math.isfinite(loss)]
    if found:
        step = min(found, key=lambda one: one[0])[1]
        yield step.params, _told(step)


def _told(step: OuterStep) -> str:
    value = "no value" if step.value is None else f"{step.value:.4g}"
    return f"trial {step.trials[0]}: step {step.step}, {value}, {step.verdict}"
