"""The step sizes of a search over its outer steps."""

from __future__ import annotations

import math
from collections.abc import Sequence

from optuna.study import Study

from optuna_hypergrad.samplers.gradient.history import OuterStep
from optuna_hypergrad.visualization import charts
from optuna_hypergrad.visualization.charts import Axis, Line, Panel, colors, searches
from optuna_hypergrad.visualization.charts.axes import factor_ticks
from optuna_hypergrad.visualization.charts.parameters import PlottedHparam

TITLE = "Step sizes γ by outer step"
MIN_GAMMA = 1e-30  # below, halving has made γ too small to move anything
MARGIN = 1.3  # of a logarithmic axis


def step_sizes(
    study: Study, names: Sequence[str] | None = None, chain: int | None = None
) -> charts.Chart:
    """Plot the step size γ of each hyperparameter over outer steps.

    γ is that of the move that follows an outer step, in units of the hyperparameter or, where its
    range is logarithmic, as the factor by which the move multiplies it (×1.5), as in log lines.
    Crosses mark outer steps that were rejected, diverged, were pruned or failed.

    Args:
        study: A study. Without outer steps of a ``GradientSampler``, the figure says so.
        names: Names of hyperparameters with hypergradients, schedules or single parameters; by
            default the first twelve. Of schedules with more than twelve windows, twelve are shown.
        chain: The number of the search; by default that of the search with the best value.

    Raises:
        ValueError: If ``study`` is not a study or has several objectives, or if it has no
            hyperparameter of one of the ``names`` or no such ``chain``.
        StoredDataError: If the stored data is damaged.

    Reference:
        FDS, Algorithm 1.

    Example:
        >>> import optuna
        >>> from optuna_hypergrad import GradientSampler, report_hypergradient, suggest_schedule
        >>> from optuna_hypergrad.visualization import plot_step_sizes
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> def objective(trial):
        ...     lr = suggest_schedule(trial, "lr", 0.0, 1.0, windows=3)
        ...     errors = [value - best for value, best in zip(lr.values, [0.8, 0.7, 0.1])]
        ...     report_hypergradient(trial, dict(zip(lr.names, errors)))
        ...     return sum(error**2 for error in errors) / 2
        >>> sampler = GradientSampler(seed=0, strategy="sign_descent")
        >>> study = optuna.create_study(sampler=sampler)
        >>> study.optimize(objective, n_trials=6)
        >>> [round(size, 3) for size in plot_step_sizes(study).data[2].y][:-1]
        [0.05, 0.05, 0.05, 0.05, 0.05, 0.05]
    """
    search = searches.read_search(study, names, chain, of_trials=False)
    if isinstance(search, str):
        return charts.message(TITLE, search)
    shown = search.subsample()
    if not any(step.step_size for step in shown):
        return charts.message(TITLE, "All starting points have diverged: no step sizes yet.")
    return search.chart(TITLE, [_panel(hparam, shown) for hparam in search.hparams], len(shown))


def _panel(hparam: PlottedHparam, steps: Sequence[OuterStep]) -> Panel:
    n = len(hparam.parameters)
    marks: list[charts.Mark] = []
    chosen = searches.subsample(n, searches.MAX_WINDOWS)
    for i in chosen:
        color = colors.sequential(hparam.times[i]) if hparam.is_schedule else colors.BLACK
        marks += _window(hparam.parameters[i], steps, color)
    title = hparam.name if len(chosen) == n else f"{hparam.name}, {len(chosen)} of {n} windows"
    windows = searches.WINDOWS if hparam.is_schedule else None
    return Panel(title, searches.STEPS, _gamma_axis(hparam, marks), marks, scale=windows)


def _gamma_axis(hparam: PlottedHparam, marks: Sequence[charts.Mark]) -> Axis:
    if not hparam.is_log:
        return Axis(f"γ, in units of {hparam.name}", is_log=True)
    sizes = [y for mark in marks if isinstance(mark, Line) for y in mark.y if math.isfinite(y)]
    if not sizes:
        return Axis("γ, as a factor", is_log=True)
    ends = min(sizes) / MARGIN, max(sizes) * MARGIN
    return Axis("γ, as a factor", is_log=True, ticks=factor_ticks(*ends), range=ends)


def _window(name: str, steps: Sequence[OuterStep], color: str) -> list[charts.Mark]:
    x = [step.step for step in steps]
    gammas = [step.step_size.get(name, math.nan) for step in steps]
    y = [gamma if gamma > MIN_GAMMA else math.nan for gamma in gammas]
    line = Line([*x, x[-1] + 1], [*y, y[-1]], color, is_step=True)
    return [line, *searches.crosses(steps, x, y, colors.RED)]
