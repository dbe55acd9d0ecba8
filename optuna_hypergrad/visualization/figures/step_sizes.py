"""The step sizes of a search over its outer steps."""

from __future__ import annotations

import math
from collections.abc import Sequence

from optuna.study import Study

from optuna_hypergrad.samplers.gradient.history import OuterStep
from optuna_hypergrad.visualization.charts import colors
from optuna_hypergrad.visualization.charts.axes import factor_ticks
from optuna_hypergrad.visualization.charts.marks import (
    Axis,
    Chart,
    Line,
    Mark,
    Panel,
    Points,
    message,
)
from optuna_hypergrad.visualization.charts.parameters import PlottedHparam
from optuna_hypergrad.visualization.charts.searches import (
    COLUMNS,
    LEFT,
    MOST_WINDOWS,
    SCALE,
    describe_left,
    follow,
    most_steps,
    thinned,
)

LEAST = 1e-30
MARGIN = 1.3  # of a logarithmic axis
TITLE = "Step sizes γ by outer step"


def step_sizes(study: Study, names: Sequence[str] | None = None, chain: int | None = None) -> Chart:
    """See ``plot_step_sizes``."""
    course = follow(study, names, chain)
    if isinstance(course, str):
        return message(TITLE, course)
    shown = course.shown(most_steps(course.hypers))
    if not any(step.step_size for step in shown):
        return message(TITLE, "Every start has diverged: no step has been taken yet.")
    panels = [_panel(hyper, shown) for hyper in course.hypers]
    columns = min(len(panels), COLUMNS)
    return Chart(course.title(TITLE, len(shown)), panels, columns, size=(4.4, 3.2))


def _panel(hyper: PlottedHparam, steps: Sequence[OuterStep]) -> Panel:
    n = len(hyper.parameters)
    marks: list[Mark] = []
    kept = thinned(n, MOST_WINDOWS)
    for i in kept:
        color = colors.shade(hyper.places[i]) if hyper.is_schedule else colors.BLACK
        marks += _window(hyper.parameters[i], steps, color)
    title = hyper.name if len(kept) == n else f"{hyper.name}, {len(kept)} of {n} windows"
    axes = Axis("outer step", is_integer=True), _gamma(hyper, marks)
    return Panel(title, *axes, marks, scale=SCALE if hyper.is_schedule else None)


def _gamma(hyper: PlottedHparam, marks: Sequence[Mark]) -> Axis:
    """The axis of γ; on a logarithmic range, with what a step multiplies the value by."""
    if not hyper.is_log:
        return Axis(f"γ, in units of {hyper.name}", is_log=True)
    sizes = [y for mark in marks if isinstance(mark, Line) for y in mark.y if math.isfinite(y)]
    if not sizes:
        return Axis("γ, as a factor", is_log=True)
    ends = min(sizes) / MARGIN, max(sizes) * MARGIN
    return Axis("γ, as a factor", is_log=True, ticks=factor_ticks(*ends), range=ends)


def _moving(gamma: float) -> float:
    """γ, or NaN where halving has made it too small to move anything, and a logarithm of it."""
    return gamma if gamma > LEAST else math.nan


def _window(name: str, steps: Sequence[OuterStep], color: str) -> list[Mark]:
    """γ of the move after each step, and where a step was not gone on from."""
    x = [step.step for step in steps]
    y = [_moving(step.step_size.get(name, math.nan)) for step in steps]
    marks: list[Mark] = [Line([*x, x[-1] + 1], [*y, y[-1]], color, is_step=True)]
    left = [i for i, step in enumerate(steps) if step.status in LEFT]
    if left:
        at = ([x[i] for i in left], [y[i] for i in left])
        marks.append(Points(*at, colors.RED, describe_left(steps), "cross", 5.0))
    return marks
