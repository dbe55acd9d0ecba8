"""The hypergradients of a search over its outer steps, by window."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from optuna.study import Study

from optuna_hypergrad.algorithms.ranges import Array
from optuna_hypergrad.samplers.gradient.history import OuterStep
from optuna_hypergrad.visualization.charts import colors
from optuna_hypergrad.visualization.charts.axes import SignedScale
from optuna_hypergrad.visualization.charts.marks import (
    Axis,
    Band,
    Chart,
    Heat,
    Line,
    Mark,
    Panel,
    Points,
    Scale,
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
)

TITLE = "Hypergradients by outer step"
BEYOND = {-1.0: "largest\nnegative", 0.0: "0", 1.0: "largest\npositive"}
RELATIVE = Scale("hypergradient, relative to its schedule", -1, 1, is_diverging=True, ticks=BEYOND)


def hypergradients(
    study: Study, names: Sequence[str] | None = None, chain: int | None = None
) -> Chart:
    """See ``plot_hypergradients``."""
    course = follow(study, names, chain)
    if isinstance(course, str):
        return message(TITLE, course)
    shown = course.shown(most_steps(course.hypers))
    panels = [_panel(hyper, shown) for hyper in course.hypers]
    columns = min(len(panels), COLUMNS)
    title = course.title(TITLE, len(shown))
    return Chart(title, panels, columns, size=(4.4, 3.2))


def _panel(hyper: PlottedHparam, steps: Sequence[OuterStep]) -> Panel:
    is_fine = len(hyper.parameters) > MOST_WINDOWS
    return _cells(hyper, steps) if is_fine else _lines(hyper, steps)


def _lines(hyper: PlottedHparam, steps: Sequence[OuterStep]) -> Panel:
    """One line a window, with what is known of its noise, and where the search has turned."""
    scale = SignedScale(_gradients(hyper, steps))
    zero = Line([steps[0].step, steps[-1].step], [0, 0], colors.BLACK, width=0.6)
    marks: list[Mark] = [zero]
    for place, name in zip(hyper.places, hyper.parameters, strict=True):
        color = colors.shade(place) if hyper.is_schedule else colors.BLACK
        marks += _window(name, [step for step in steps if name in step.gradient], scale, color)
    label = f"∂ loss / ∂ {hyper.name}"
    axes = Axis("outer step", is_integer=True), scale.axis(label)
    return Panel(hyper.name, *axes, marks, scale=SCALE if hyper.is_schedule else None)


def _window(
    name: str, steps: Sequence[OuterStep], scale: SignedScale, color: str
) -> Iterator[Mark]:
    x = [step.step for step in steps]
    spreads = [_spread(name, step) for step in steps]
    if any(low < high for low, high in spreads):
        low, high = scale.place(spreads).T.tolist()
        yield Band(x, low, high, color, "range of replicates")
    y = scale.place([step.gradient[name] for step in steps]).tolist()
    texts = [f"{name}: {step.gradient[name]:.3g}" for step in steps]
    yield Points(x, y, color, texts=texts) if len(x) == 1 else Line(x, y, color, texts=texts)
    turned = [i for i, step in enumerate(steps) if name in step.flipped]
    if turned:
        at = ([x[i] for i in turned], [y[i] for i in turned])
        yield Points(*at, color, "direction has turned", "open circle", 6.0)
    left = [i for i, step in enumerate(steps) if step.status in LEFT]
    if left:
        at = ([x[i] for i in left], [y[i] for i in left])
        yield Points(*at, colors.GREY, describe_left(steps), "cross", 5.0)


def _spread(name: str, step: OuterStep) -> tuple[float, float]:
    """The lowest and the highest of the replicates, or the one value."""
    values = [report.get(name, math.nan) for report in step.reports]
    known = [value for value in values if math.isfinite(value)] or [step.gradient[name]]
    return min(known), max(known)


def _cells(hyper: PlottedHparam, steps: Sequence[OuterStep]) -> Panel:
    """A cell for each step and window."""
    gradients = _gradients(hyper, steps)  # steps, windows
    placed = SignedScale(gradients).place(gradients)
    largest = float(np.nanmax(np.abs(placed), initial=0.0)) or 1.0
    x, y = _edges([step.step for step in steps]), _edges(hyper.places)
    cells = Heat(x, [max(0.0, y[0]), *y[1:-1], min(1.0, y[-1])], (placed.T / largest).tolist())
    return Panel(
        f"∂ loss / ∂ {hyper.name}",
        Axis("outer step", is_integer=True),
        Axis("fraction of training"),
        [cells],
        scale=RELATIVE,
    )


def _edges(centres: Sequence[float]) -> list[float]:
    """Where the cells around these places end."""
    c = np.asarray(centres, dtype=float)
    if len(c) == 1:
        return [c[0] - 0.5, c[0] + 0.5]
    middles = (c[1:] + c[:-1]) / 2
    return [2 * c[0] - middles[0], *middles.tolist(), 2 * c[-1] - middles[-1]]


def _gradients(hyper: PlottedHparam, steps: Sequence[OuterStep]) -> Array:
    """NaN where nothing was reported, shape (steps, windows)."""
    rows = [[step.gradient.get(name, math.nan) for name in hyper.parameters] for step in steps]
    return np.array(rows, dtype=float)
