"""The growth of derivatives over the steps of training, one line for each trial."""

from __future__ import annotations

import math

from optuna.study import Study

from optuna_hypergrad.algorithms.growth import DOMINATED
from optuna_hypergrad.reports.growth import StoredGrowth, read_growth
from optuna_hypergrad.samplers.studies import check_one_objective
from optuna_hypergrad.visualization import charts
from optuna_hypergrad.visualization.charts import Axis, Line, Panel, Points, colors
from optuna_hypergrad.visualization.charts.searches import subsample

TITLE = "Growth of the derivatives over the steps of training"
MAX_TRIALS = 12  # with a line each
NO_GROWTH = (
    "No trial has reported the growth of its derivatives yet.\n"
    "Give report_hypergradient the result of hypergradient, not its gradient alone."
)
NOT_FINITE = "In no trial, the growth of derivatives from a step to the end is finite."
THRESHOLD = f"{10**DOMINATED:.0f}-fold: above, growth dominates"


def growth(study: Study) -> charts.Chart:
    """Plot the growth of derivatives from each step of training to its end, by trial.

    Above the dotted line, derivatives grow more than a hundredfold until the end of the training:
    the hypergradient of a value at such a step is dominated by this growth, and its sign may be
    noise. Later trials are lighter. Of many trials, an evenly spaced selection with the latest is
    shown, and the title gives its size.

    Args:
        study: A study of any sampler. Without trials that reported a growth, the figure says so.

    Raises:
        ValueError: If ``study`` is not a study or has several objectives.
        StoredDataError: If the stored data is damaged.

    Reference:
        Metz et al., "Gradients are not all you need" (2021).

    Example:
        >>> from types import SimpleNamespace
        >>> import numpy as np, optuna
        >>> from optuna_hypergrad import report_hypergradient
        >>> from optuna_hypergrad.visualization import plot_growth
        >>> optuna.logging.set_verbosity(optuna.logging.ERROR)
        >>> def objective(trial):
        ...     rate = trial.suggest_float("rate", 0.0, 0.1)
        ...     growth = SimpleNamespace(  # as autodiff.hypergradient measures it
        ...         total=50 * rate, to_end=rate * np.arange(50, 0, -1), trust={"rate": 0.4},
        ...         dominated=30, damped=0.0,
        ...     )
        ...     report_hypergradient(trial, SimpleNamespace(gradient={"rate": 1.0}, growth=growth))
        ...     return rate
        >>> study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        >>> study.optimize(objective, n_trials=3)
        >>> [len(trace.x) for trace in plot_growth(study).data if trace.name is None][:3]
        [50, 50, 50]
    """
    check_one_objective(study)
    found = [(trial.number, read_growth(trial)) for trial in study.get_trials(deepcopy=False)]
    reported = [(number, one) for number, one in found if one is not None]
    if not reported:
        return charts.message(TITLE, NO_GROWTH)
    drawable = [(n, one) for n, one in reported if any(map(math.isfinite, one.to_end.values()))]
    if not drawable:
        return charts.message(TITLE, NOT_FINITE)
    shown = [drawable[i] for i in subsample(len(drawable), MAX_TRIALS)]
    first, last = shown[0][0], shown[-1][0]
    span = last - first
    longest = max(one.steps for _, one in shown) - 1
    marks: list[charts.Mark] = [
        Line([0, longest], [DOMINATED] * 2, colors.BLACK, THRESHOLD, dash="dot", width=1.2)
    ]
    for number, one in shown:
        marks.append(_line(number, one, colors.sequential((number - first) / span if span else 0)))
    scale = charts.Scale("trial", first, last, is_integer=True) if span else None
    y = Axis("log₁₀ of the growth from a step to the end")
    panel = Panel("", Axis("step of training", is_integer=True), y, marks, scale=scale)
    title = TITLE
    if len(shown) < len(drawable):
        title += f" · {len(shown)} of {len(drawable):,} trials"
    return charts.Chart(title, [panel], size=(8.0, 4.2))


def _line(number: int, growth: StoredGrowth, color: str) -> charts.Mark:
    """The growth of a trial; a point if there is only one step."""
    x = [*growth.to_end]
    y = [value if math.isfinite(value) else math.nan for value in growth.to_end.values()]
    text = f"trial {number}: 10^{growth.total:.3g} over {growth.steps:,} steps"
    if growth.dominated:
        text += f", which dominates the first {growth.dominated:,}"
    if len(x) == 1:
        return Points(x, y, color, texts=[text])
    return Line(x, y, color, texts=[text])
