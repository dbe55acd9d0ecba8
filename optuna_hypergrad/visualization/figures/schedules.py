"""The schedules of a search, one line for each outer step or trial."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from optuna.study import Study

from optuna_hypergrad.samplers.gradient.history import OuterStep
from optuna_hypergrad.schedules import Schedule
from optuna_hypergrad.visualization import charts
from optuna_hypergrad.visualization.charts import Axis, Line, Panel, Points, colors, searches
from optuna_hypergrad.visualization.charts.parameters import PlottedHparam

TITLE = "Schedules"
MIN_LINES, MAX_LINES, MAX_LINES_IN_ALL, MAX_POINTS = 15, 60, 240, 300
RESOLUTION = 128  # points of a line that is not straight between its knots
SYMBOLS: dict[str, charts.Symbol] = {
    "trial": "circle",
    "accepted": "circle",
    "rejected": "open circle",
    "diverged": "cross",
    "pruned": "square",
    "failed": "triangle",
}


def schedules(
    study: Study, names: Sequence[str] | None = None, chain: int | None = None
) -> charts.Chart:
    """Plot the schedules of a search, one line for each outer step, coloured by step.

    Accepted steps are solid; steps that were rejected, diverged, were pruned or failed are dotted
    and faded; the best is black. Hyperparameters with a single value are shown over outer steps. Of
    many outer steps, an evenly spaced selection is shown, and the title gives its size. If a
    Gaussian process proposes the trials, there is a line for each finished trial, and that of the
    recommended one is black.

    Args:
        study: A study. Without finished trials of a ``GradientSampler``, the figure says so.
        names: Names of schedules or single parameters; by default the first twelve.
        chain: The number of the search; by default that of the search with the best value.

    Raises:
        ValueError: If ``study`` is not a study or has several objectives, or if it has no
            hyperparameter of one of the ``names`` or no such ``chain``.
        StoredDataError: If the stored data is damaged.

    Reference:
        FDS, Figure 1.

    Example:
        >>> import optuna
        >>> from optuna_hypergrad import GradientSampler, report_hypergradient, suggest_schedule
        >>> from optuna_hypergrad.visualization import plot_schedules
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> def objective(trial):
        ...     lr = suggest_schedule(trial, "lr", 0.0, 1.0, windows=3)
        ...     errors = [value - best for value, best in zip(lr.values, [0.8, 0.7, 0.1])]
        ...     report_hypergradient(trial, dict(zip(lr.names, errors)))
        ...     return sum(error**2 for error in errors) / 2
        >>> study = optuna.create_study(sampler=GradientSampler(seed=0))
        >>> study.optimize(objective, n_trials=6)
        >>> [axis.title.text for axis in plot_schedules(study).select_xaxes()]
        ['fraction of training']
    """
    search = searches.read_search(study, names, chain, has_gradient=False)
    if isinstance(search, str):
        return charts.message(TITLE, search)
    n_schedules = sum(hparam.is_schedule for hparam in search.hparams)
    size = MAX_POINTS
    if n_schedules:
        size = min(MAX_LINES, max(MIN_LINES, MAX_LINES_IN_ALL // n_schedules))
    shown = search.subsample(size)
    first, last = search.steps[0].step, search.steps[-1].step
    span = last - first
    shades = [colors.sequential((s.step - first) / span if span else 1.0) for s in shown]
    scale = charts.Scale(search.unit, first, last, is_integer=True) if span else None
    panels = []
    for hparam in search.hparams:
        panel = _lines if hparam.is_schedule else _points
        ran = [(s, c) for s, c in zip(shown, shades, strict=True) if _has(hparam, s)]
        panels.append(replace(panel(hparam, ran, search), scale=scale))
    return search.chart(f"{TITLE} by {search.unit}", panels, len(shown))


def _has(hparam: PlottedHparam, step: OuterStep) -> bool:
    """Whether a step has all parameters; one that was pruned may not."""
    return all(name in step.params for name in hparam.parameters)


def _lines(
    hparam: PlottedHparam, steps: Sequence[tuple[OuterStep, str]], search: searches.Search
) -> Panel:
    """One line for each step over the training, the best on top."""
    lines, best = [], search.best
    for step, color in (pair for pair in steps if pair[0] is not best):
        style: dict[str, Any] = {"color": color, "name": searches.label(step)}
        is_left = step.status in searches.NOT_ACCEPTED
        if is_left or search.unit == "trial":
            style |= {"dash": "dot" if is_left else "solid", "width": 1.2, "opacity": 0.6}
        lines.append(_curve(hparam, step, **style))
    if best is not None and _has(hparam, best):
        style = {"color": colors.BLACK, "name": search.name_of_best, "width": 3.0}
        lines.append(_curve(hparam, best, **style))
    return Panel(hparam.name, Axis("fraction of training"), Axis("", hparam.is_log), lines)


def _curve(hparam: PlottedHparam, step: OuterStep, **style: Any) -> Line:
    values = [step.params[name] for name in hparam.parameters]
    style["texts"] = [searches.describe_step(step)]
    if hparam.form == "constant":
        edges = np.linspace(0, 1, len(values) + 1).tolist()
        return Line(edges, [*values, values[-1]], is_step=True, **style)
    schedule = Schedule(hparam.name, values, hparam.form, hparam.is_log)
    is_straight = hparam.form == "linear"  # also on a logarithmic axis, which is the schedule's
    n = schedule.windows * (1 if is_straight else max(4, RESOLUTION // schedule.windows))
    path = [*schedule.over(n).tolist(), values[-1]]
    return Line(np.linspace(0, 1, n + 1).tolist(), path, **style)


def _points(
    hparam: PlottedHparam, steps: Sequence[tuple[OuterStep, str]], search: searches.Search
) -> Panel:
    """A hyperparameter with a single value, over outer steps."""
    best = search.best

    def points(chosen: Sequence[OuterStep], color: str | list[str], **style: Any) -> Points:
        y = [hparam.first.position(step.params) for step in chosen]
        texts = [searches.describe_step(step) for step in chosen]
        return Points([step.step for step in chosen], y, color, texts=texts, **style)

    marks: list[charts.Mark] = []
    if search.unit == "outer step":  # a path; the trials of a Gaussian process are none
        y = [hparam.first.position(step.params) for step, _ in steps]
        x = [step.step for step, _ in steps]
        marks.append(Line(x, y, colors.GREY, width=0.8, opacity=0.6))
    for name, symbol in SYMBOLS.items():
        chosen = [(s, color) for s, color in steps if s is not best and searches.label(s) == name]
        if chosen:
            shades = [color for _, color in chosen]
            style: dict[str, Any] = {"name": name, "symbol": symbol, "size": 5.0}
            marks.append(points([step for step, _ in chosen], shades, **style))
    if best is not None and _has(hparam, best):
        name = search.name_of_best
        marks.append(points([best], colors.BLACK, name=name, symbol="star", size=9))
    axis = replace(hparam.first.axis(), label="")  # the panel's title has the name
    return Panel(hparam.name, search.axis, axis, marks)
