"""How noisy hypergradients are, by window: what replicates of the same outer step tell."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from optuna.study import Study

from optuna_hypergrad.algorithms.noise import hypervariance as spread_over_mean
from optuna_hypergrad.algorithms.noise import sign_fluctuation
from optuna_hypergrad.algorithms.ranges import Array
from optuna_hypergrad.samplers.gradient.history import OuterStep
from optuna_hypergrad.visualization.charts import colors
from optuna_hypergrad.visualization.charts.marks import (
    Axis,
    Bars,
    Chart,
    Panel,
    message,
)
from optuna_hypergrad.visualization.charts.parameters import PlottedHparam
from optuna_hypergrad.visualization.charts.searches import follow

TITLE = "Noise of hypergradients"
NO_REPLICATES = (
    "No outer step has run more than once: there is no noise to see.\n"
    "GradientSampler(n_replicates=3) runs each of them three times."
)
MOST_LABELS = 24


class Noise(NamedTuple):
    """How noisy the hypergradient of one parameter is, over the outer steps with replicates."""

    hypervariance: float  # median; NaN where nothing is known, or it is infinite
    sign_fluctuation: float  # mean


def hypervariance(
    study: Study, wanted: Sequence[str] | None = None, chain: int | None = None
) -> Chart:
    """See ``plot_hypervariance``."""
    course = follow(study, wanted, chain)
    if isinstance(course, str):
        return message(TITLE, course)
    names = [name for hyper in course.hypers for name in hyper.parameters]
    runs = [run for step in course.steps if len(run := _runs(names, step)) > 1]
    if not runs:
        return message(TITLE, NO_REPLICATES)
    noises = _noises(names, runs)
    title = course.title(TITLE, len(course.steps)) + f" · {len(runs):,} steps with replicates"
    x = _axis(course.hypers)
    over_mean, turned = Axis("standard deviation / |mean|"), Axis("min(P₋, P₊) / P", range=(0, 0.5))
    panels = [
        Panel("hypervariance, median over steps", x, over_mean, _bars(course.hypers, noises, 0)),
        Panel("sign fluctuation, mean over steps", x, turned, _bars(course.hypers, noises, 1)),
    ]
    return Chart(title, panels, 1, size=(9.0, 2.8))


def _noises(names: Sequence[str], runs: Sequence[Array]) -> dict[str, Noise]:
    """By parameter; one that was not always reported counts where it was."""
    ratios = np.array([spread_over_mean(run) for run in runs])  # shape (steps, names)
    turned = np.array([sign_fluctuation(run) for run in runs])
    noises = {}
    for name, ratio, turn in zip(names, ratios.T, turned.T, strict=True):
        known = ~np.isnan(ratio)
        middle = float(np.median(ratio[known])) if known.any() else math.nan
        mean = float(np.mean(turn[known])) if known.any() else math.nan
        noises[name] = Noise(middle if math.isfinite(middle) else math.nan, mean)
    return noises


def _runs(names: Sequence[str], step: OuterStep) -> Array:
    """Hypergradients of the replicates that did not diverge, shape (replicates, names)."""
    sound = [report for report in step.reports if all(map(math.isfinite, report.values()))]
    rows = [[report.get(name, math.nan) for name in names] for report in sound]
    return np.array(rows, dtype=float).reshape(-1, len(names))


def _bars(hypers: Sequence[PlottedHparam], noises: Mapping[str, Noise], which: int) -> list[Bars]:
    """One bar a parameter, one colour a hyperparameter."""
    bars, at = [], 0
    for i, hyper in enumerate(hypers):
        x = [float(at + k) for k in range(len(hyper.parameters))]
        height = [noises[name][which] for name in hyper.parameters]
        texts = [f"{n}: {h:.3g}" for n, h in zip(hyper.parameters, height, strict=True)]
        bars.append(Bars(x, height, colors.cycled(i), hyper.name, texts=texts))
        at += len(x)
    return bars


def _axis(hypers: Sequence[PlottedHparam]) -> Axis:
    """Named parameters, as long as there is room; else the place in each schedule."""
    names = [name for hyper in hypers for name in hyper.parameters]
    if len(names) <= MOST_LABELS:
        return Axis(ticks={float(i): name for i, name in enumerate(names)})
    firsts = {hyper.parameters[0] for hyper in hypers}
    return Axis(ticks={float(i): name for i, name in enumerate(names) if name in firsts})
