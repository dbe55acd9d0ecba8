"""The noise of hypergradients between replicates, by window."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from optuna.study import Study

from optuna_hypergrad.algorithms import noise
from optuna_hypergrad.visualization import charts
from optuna_hypergrad.visualization.charts import Axis, Bars, Panel, colors, searches
from optuna_hypergrad.visualization.charts.parameters import PlottedHparam

TITLE = "Noise of hypergradients"
NO_REPLICATES = (
    "No outer step has several replicates.\n"
    "GradientSampler(n_replicates=3) runs each of them three times."
)
MAX_LABELS = 24


def hypervariance(
    study: Study, names: Sequence[str] | None = None, chain: int | None = None
) -> charts.Chart:
    """Plot how much the hypergradient of each window differs between replicates of outer steps.

    The hypervariance is the standard deviation of the replicates over the absolute value of their
    mean: above 1 there is more noise than signal. The sign fluctuation is the fraction of
    replicates with the rarer sign, at most 1/2. Both need outer steps with several replicates, from
    ``n_replicates`` or several workers.

    Args:
        study: A study. Without outer steps of a ``GradientSampler``, the figure says so.
        names: Names of hyperparameters with hypergradients, schedules or single parameters; by
            default the first twelve.
        chain: The number of the search; by default that of the search with the best value.

    Raises:
        ValueError: If ``study`` is not a study or has several objectives, or if it has no
            hyperparameter of one of the ``names`` or no such ``chain``.
        StoredDataError: If the stored data is damaged.

    Reference:
        FDS, Section 5.1 and Figure 2.

    Example:
        >>> import optuna
        >>> from optuna_hypergrad import GradientSampler, report_hypergradient, suggest_schedule
        >>> from optuna_hypergrad.visualization import plot_hypervariance
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> def objective(trial):
        ...     lr = suggest_schedule(trial, "lr", 0.0, 1.0, windows=3)
        ...     noise = 0.3 * (-1) ** trial.number
        ...     errors = [value - best + noise for value, best in zip(lr.values, [0.8, 0.7, 0.1])]
        ...     report_hypergradient(trial, dict(zip(lr.names, errors)))
        ...     return sum(error**2 for error in errors) / 2
        >>> study = optuna.create_study(sampler=GradientSampler(seed=0, n_replicates=2))
        >>> study.optimize(objective, n_trials=6)
        >>> [round(bar, 2) for bar in plot_hypervariance(study).data[0].y]
        [0.57, 0.65, 8.49]
    """
    search = searches.read_search(study, names, chain, of_trials=False)
    if isinstance(search, str):
        return charts.message(TITLE, search)
    parameters = [name for hparam in search.hparams for name in hparam.parameters]
    replicates = []  # of each step, without those that diverged; shape (replicates, parameters)
    for step in search.steps:
        finite = [one for one in step.reports if all(map(math.isfinite, one.values()))]
        if len(finite) > 1:
            rows = [[report.get(name, math.nan) for name in parameters] for report in finite]
            replicates.append(np.array(rows, dtype=float))
    if not replicates:
        return charts.message(TITLE, NO_REPLICATES)
    # Shape (steps, parameters); NaN where a parameter was not reported.
    ratios = np.array([noise.hypervariance(one) for one in replicates])
    flips = np.array([noise.sign_fluctuation(one) for one in replicates])
    medians, means = {}, {}
    for name, ratio, flip in zip(parameters, ratios.T, flips.T, strict=True):
        known = ~np.isnan(ratio)
        median = float(np.median(ratio[known])) if known.any() else math.nan
        medians[name] = median if math.isfinite(median) else math.nan
        means[name] = float(np.mean(flip[known])) if known.any() else math.nan
    title = search.title(TITLE, len(search.steps)) + f" · {len(replicates):,} steps with replicates"
    # Too many names do not fit: then only the first of each hyperparameter is shown.
    firsts = [hparam.parameters[0] for hparam in search.hparams]
    labelled = firsts if len(parameters) > MAX_LABELS else parameters
    x = Axis(ticks={float(i): name for i, name in enumerate(parameters) if name in labelled})
    deviation = Axis("standard deviation / |mean|")
    fluctuation = Axis("min(P₋, P₊) / P", range=(0, 0.5))
    bars = [_bars(search.hparams, heights) for heights in (medians, means)]
    panels = [
        Panel("hypervariance, median over steps", x, deviation, bars[0]),
        Panel("sign fluctuation, mean over steps", x, fluctuation, bars[1]),
    ]
    return charts.Chart(title, panels, size=(9.0, 2.8))


def _bars(hparams: Sequence[PlottedHparam], heights: Mapping[str, float]) -> list[Bars]:
    """One bar for each parameter, one colour for each hyperparameter."""
    bars, n = [], 0
    for i, hparam in enumerate(hparams):
        x = [float(n + k) for k in range(len(hparam.parameters))]
        height = [heights[name] for name in hparam.parameters]
        texts = [f"{name}: {heights[name]:.3g}" for name in hparam.parameters]
        bars.append(Bars(x, height, colors.cycle(i), hparam.name, texts=texts))
        n += len(x)
    return bars
