"""The schedules of a search: one line an outer step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from optuna.study import Study

from optuna_hypergrad.samplers.gradient.history import OuterStep, Status
from optuna_hypergrad.schedules import Schedule
from optuna_hypergrad.visualization.charts import colors
from optuna_hypergrad.visualization.charts.marks import (
    Axis,
    Chart,
    Line,
    Mark,
    Panel,
    Points,
    Scale,
    Symbol,
    message,
)
from optuna_hypergrad.visualization.charts.parameters import PlottedHparam
from optuna_hypergrad.visualization.charts.searches import LEFT, describe_step, follow

TITLE = "Schedules by outer step"
MOST_LINES, MOST_LINES_IN_ALL, MOST_POINTS = 60, 240, 300
FINENESS = 128  # points of a line that is not straight between its knots
COLUMNS = 3
KINDS: tuple[tuple[str, Symbol, Sequence[Status]], ...] = (
    ("accepted", "circle", ("accepted", "measured again")),
    ("rejected", "open circle", ("rejected",)),
    ("diverged", "cross", ("diverged",)),
    ("pruned", "square", ("pruned",)),
    ("failed", "triangle", ("failed",)),
)


def schedules(study: Study, names: Sequence[str] | None = None, chain: int | None = None) -> Chart:
    """See ``plot_schedules``."""
    course = follow(study, names, chain, learned=False)
    if isinstance(course, str):
        return message(TITLE, course)
    shown = course.shown(_most(course.hypers))
    first, last = course.steps[0].step, course.steps[-1].step
    shades = colors.shades([step.step for step in shown], first, last)
    scale = Scale("outer step", first, last, is_integer=True) if last > first else None
    panels = []
    for hyper in course.hypers:
        panel = _schedule if hyper.is_schedule else _values
        panels.append(replace(panel(hyper, shown, shades, course.best), scale=scale))
    columns = min(len(panels), COLUMNS)
    return Chart(course.title(TITLE, len(shown)), panels, columns, size=(4.4, 3.2))


def _most(hypers: Sequence[PlottedHparam]) -> int:
    """How many steps can be describe_step apart, and be stored."""
    n_schedules = sum(hyper.is_schedule for hyper in hypers)
    if not n_schedules:
        return MOST_POINTS
    return min(MOST_LINES, max(15, MOST_LINES_IN_ALL // n_schedules))


def _schedule(
    hyper: PlottedHparam, steps: Sequence[OuterStep], shades: Sequence[str], best: OuterStep | None
) -> Panel:
    """One line a step over the fraction of training; the best on top."""
    drawn = [(step, shade) for step, shade in zip(steps, shades, strict=True) if step is not best]
    lines: list[Mark] = [_line(hyper, step, shade) for step, shade in drawn if _has(hyper, step)]
    if best is not None and _has(hyper, best):
        style: dict[str, Any] = {"color": colors.BLACK, "name": "best", "width": 3.0}
        lines.append(_curve(hyper, best, **style))
    return Panel(hyper.name, Axis("fraction of training"), Axis("", hyper.is_log), lines)


def _has(hyper: PlottedHparam, step: OuterStep) -> bool:
    """Whether a step ran with all of its parameters; one that was pruned may not have."""
    return all(name in step.params for name in hyper.parameters)


def _line(hyper: PlottedHparam, step: OuterStep, color: str) -> Line:
    if step.status in LEFT:
        faded: dict[str, Any] = {"dash": "dot", "width": 1.2, "opacity": 0.6}
        return _curve(hyper, step, color=color, name=step.status, **faded)
    return _curve(hyper, step, color=color, name="accepted")


def _curve(hyper: PlottedHparam, step: OuterStep, **style: Any) -> Line:
    values = [step.params[name] for name in hyper.parameters]
    texts = [describe_step(step)]
    if hyper.form == "constant":
        edges = np.linspace(0, 1, len(values) + 1).tolist()
        return Line(edges, [*values, values[-1]], is_step=True, texts=texts, **style)
    schedule = Schedule(hyper.name, values, hyper.form, hyper.is_log)
    is_straight = hyper.form == "linear"  # on its own axis, also where that is logarithmic
    n = schedule.windows * (1 if is_straight else max(4, FINENESS // schedule.windows))
    path = [*schedule.over(n).tolist(), values[-1]]
    return Line(np.linspace(0, 1, n + 1).tolist(), path, texts=texts, **style)


def _values(
    hyper: PlottedHparam, steps: Sequence[OuterStep], shades: Sequence[str], best: OuterStep | None
) -> Panel:
    """A hyperparameter of a single value, over outer steps."""
    ran = [(s, shade) for s, shade in zip(steps, shades, strict=True) if _has(hyper, s)]
    x = [step.step for step, _ in ran]
    y = [hyper.first.at(step.params) for step, _ in ran]
    marks: list[Mark] = [Line(x, y, colors.GREY, width=0.8, opacity=0.6)]
    for name, symbol, statuses in KINDS:
        chosen = [(s, shade) for s, shade in ran if s is not best and s.status in statuses]
        steps_of, params = [s.step for s, _ in chosen], [s.params for s, _ in chosen]
        at = (steps_of, [hyper.first.at(one) for one in params])
        of_step: dict[str, Any] = {
            "texts": [describe_step(step) for step, _ in chosen],
            "size": 5.0,
        }
        if chosen:
            marks.append(Points(*at, [shade for _, shade in chosen], name, symbol, **of_step))
    if best is not None and _has(hyper, best):
        place = ([best.step], [hyper.first.at(best.params)])
        marks.append(
            Points(*place, colors.BLACK, "best", "star", size=9, texts=[describe_step(best)])
        )
    axis = replace(hyper.first.axis(), label="")  # the title has its name
    return Panel(hyper.name, Axis("outer step", is_integer=True), axis, marks)
