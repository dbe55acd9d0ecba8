"""The hypergradients of a search over its outer steps or trials, by window."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from optuna.study import Study

from optuna_hypergrad.samplers.gradient.history import OuterStep
from optuna_hypergrad.visualization import charts
from optuna_hypergrad.visualization.charts import Axis, Line, Panel, Points, colors, searches
from optuna_hypergrad.visualization.charts.axes import SignedScale
from optuna_hypergrad.visualization.charts.parameters import PlottedHparam

TITLE = "Hypergradients"
CELLS = charts.Scale(
    "hypergradient, relative to its schedule",
    low=-1,
    high=1,
    is_diverging=True,
    ticks={-1.0: "largest\nnegative", 0.0: "0", 1.0: "largest\npositive"},
)


def hypergradients(
    study: Study, names: Sequence[str] | None = None, chain: int | None = None
) -> charts.Chart:
    """Plot the hypergradient of each window over outer steps.

    It is in units of the loss per unit of the hyperparameter. Where outer steps have replicates, a
    band shows their range. Open circles mark where the direction of the search has turned.
    Schedules with more than twelve windows are shown as cells, coloured by sign and magnitude.
    Where magnitudes differ much, the axis is logarithmic on both sides of zero, and those of more
    than ten thousand times the median lie at its edge. If a Gaussian process proposes the trials,
    there is a point for each one that reported a hypergradient, and a star on the axis at the
    recommended trial.

    Args:
        study: A study. Without finished trials of a ``GradientSampler``, the figure says so.
        names: Names of hyperparameters with hypergradients, schedules or single parameters; by
            default the first twelve.
        chain: The number of the search; by default that of the search with the best value.

    Raises:
        ValueError: If ``study`` is not a study or has several objectives, or if it has no
            hyperparameter of one of the ``names`` or no such ``chain``.
        StoredDataError: If the stored data is damaged.

    Reference:
        FDS, Figure 4.

    Example:
        >>> import optuna
        >>> from optuna_hypergrad import GradientSampler, report_hypergradient, suggest_schedule
        >>> from optuna_hypergrad.visualization import plot_hypergradients
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> def objective(trial):
        ...     lr = suggest_schedule(trial, "lr", 0.0, 1.0, windows=3)
        ...     errors = [value - best for value, best in zip(lr.values, [0.8, 0.7, 0.1])]
        ...     report_hypergradient(trial, dict(zip(lr.names, errors)))
        ...     return sum(error**2 for error in errors) / 2
        >>> study = optuna.create_study(sampler=GradientSampler(seed=0))
        >>> study.optimize(objective, n_trials=6)
        >>> [len(trace.x) for trace in plot_hypergradients(study).data if trace.name is None][1:4]
        [6, 6, 6]
    """
    search = searches.read_search(study, names, chain)
    if isinstance(search, str):
        return charts.message(TITLE, search)
    shown = search.subsample()
    panels = []
    for hparam in search.hparams:
        is_fine = len(hparam.parameters) > searches.MAX_WINDOWS
        panel = (_cells if is_fine else _lines)(hparam, shown)
        panels.append(replace(panel, x=search.axis, marks=[*panel.marks, *_recommended(search)]))
    return search.chart(f"{TITLE} by {search.unit}", panels, len(shown))


def _lines(hparam: PlottedHparam, steps: Sequence[OuterStep]) -> Panel:
    """One line for each window, with the range of replicates and the turns of the search."""
    scale = SignedScale([[s.gradient.get(n, math.nan) for n in hparam.parameters] for s in steps])
    marks: list[charts.Mark] = [
        Line([steps[0].step, steps[-1].step], [0, 0], colors.BLACK, width=0.6)
    ]
    for time, name in zip(hparam.times, hparam.parameters, strict=True):
        color = colors.sequential(time) if hparam.is_schedule else colors.BLACK
        marks += _window(name, [step for step in steps if name in step.gradient], scale, color)
    y = scale.axis(f"∂ loss / ∂ {hparam.name}")
    windows = searches.WINDOWS if hparam.is_schedule else None
    return Panel(hparam.name, searches.STEPS, y, marks, scale=windows)


def _window(
    name: str, steps: Sequence[OuterStep], scale: SignedScale, color: str
) -> Iterator[charts.Mark]:
    x = [step.step for step in steps]
    ranges = []
    for step in steps:
        values = [report.get(name, math.nan) for report in step.reports]
        finite = [*filter(math.isfinite, values)] or [step.gradient[name]]
        ranges.append((min(finite), max(finite)))
    if any(low < high for low, high in ranges):
        low, high = scale.positions(ranges).T.tolist()
        yield charts.Band(x, low, high, color, "range of replicates")
    y = scale.positions([step.gradient[name] for step in steps]).tolist()
    texts = [f"{name}: {step.gradient[name]:.3g}" for step in steps]
    is_path = len(x) > 1 and not isinstance(steps[0], searches.ShownTrial)
    yield Line(x, y, color, texts=texts) if is_path else Points(x, y, color, texts=texts)
    turned = [i for i, step in enumerate(steps) if name in step.flipped]
    if turned:
        at = [x[i] for i in turned], [y[i] for i in turned]
        yield Points(*at, color, "direction has turned", "open circle", 6.0)
    yield from searches.crosses(steps, x, y, colors.GREY)


def _recommended(search: searches.Search) -> list[Points]:
    """A star on the axis at the recommended trial, which may have no hypergradient."""
    if search.best is None or search.unit != "trial":
        return []
    text, x = searches.describe_step(search.best), [search.best.step]
    return [Points(x, [0.0], colors.BLACK, "recommended", "star", 9.0, texts=[text])]


def _cells(hparam: PlottedHparam, steps: Sequence[OuterStep]) -> Panel:
    """One cell for each step and window."""
    gradients = [[s.gradient.get(n, math.nan) for n in hparam.parameters] for s in steps]
    positions = SignedScale(gradients).positions(gradients)  # shape (steps, windows)
    largest = float(np.nanmax(np.abs(positions), initial=0.0)) or 1.0
    x, y = _edges([step.step for step in steps]), _edges(hparam.times)
    y = [max(0.0, y[0]), *y[1:-1], min(1.0, y[-1])]
    cells = charts.Heat(x, y, (positions.T / largest).tolist())
    training = Axis("fraction of training")
    return Panel(f"∂ loss / ∂ {hparam.name}", searches.STEPS, training, [cells], scale=CELLS)


def _edges(centres: Sequence[float]) -> list[float]:
    """The edges of cells with these centres."""
    c = np.asarray(centres, dtype=float)
    if len(c) == 1:
        return [c[0] - 0.5, c[0] + 0.5]
    middles = (c[1:] + c[:-1]) / 2
    return [2 * c[0] - middles[0], *middles.tolist(), 2 * c[-1] - middles[-1]]
