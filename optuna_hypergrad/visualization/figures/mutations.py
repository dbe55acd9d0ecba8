"""The mutations of clones over generations."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from optuna.study import Study

from optuna_hypergrad.reports.segments import Origin
from optuna_hypergrad.samplers.population.lineage import MutationRecord, students
from optuna_hypergrad.visualization import charts
from optuna_hypergrad.visualization.charts import Axis, Line, Panel, Points, colors
from optuna_hypergrad.visualization.charts.genealogy import GENERATIONS, NO_SEGMENTS

TITLE = "Mutations"
MAX_WEIGHTS = 4000  # figures are stored as text
MAX_MARKERS = 100  # generations that are marked by points
MAX_PANELS = 12
MAX_WEIGHT = 2.0  # only rounding to a grid leads beyond
MIN_SPREAD = 0.01  # of weights around 1: an axis must not show rounding errors

STYLES: dict[Origin, tuple[str, str, charts.Symbol]] = {
    "resampled": ("resampled", colors.GREY, "cross"),
    "surrogate": ("surrogate", colors.PINK, "star"),
    "perturbed": ("perturbed", colors.ORANGE, "square"),
    "gradient": ("hypergradient step", colors.GREEN, "triangle"),
    "teacher": ("teacher", colors.BLUE, "circle"),
}
WITHOUT_WEIGHT: frozenset[Origin] = frozenset({"resampled", "surrogate"})


class Mutation(NamedTuple):
    """The mutation of one hyperparameter of one clone."""

    generation: int
    name: str
    record: MutationRecord


def mutations(study: Study) -> charts.Chart:
    """Plot the weights by which mutation multiplied hyperparameters, and their mean degree.

    A weight multiplies the position in the range as a fraction from 0 to 1, in log space where the
    range is logarithmic, as in the log lines: the teacher's is g = 1 + tanh(…) in (0, 2), a
    perturbation's 0.8 or 1.2. The degree is the mean of |g − 1| over the clones of a generation and
    their hyperparameters. What is resampled or comes from the surrogate has no weight; the second
    panel shows the mean distance that all mutations have moved hyperparameters.

    Args:
        study: A study. Without finished trials of a ``PopulationSampler``, the figure says so.

    Raises:
        ValueError: If ``study`` is not a study or has several objectives.
        StoredDataError: If the stored data is damaged.

    Reference:
        "Learning to Mutate with Hypergradient Guided Population" (HPM), Eq. 9.

    Example:
        >>> import optuna
        >>> from optuna_hypergrad import PopulationSampler
        >>> from optuna_hypergrad.visualization import plot_mutations
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> study = optuna.create_study(sampler=PopulationSampler(seed=0, mutation="perturb"))
        >>> study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=100)
        >>> sorted({trace.name for trace in plot_mutations(study).data if trace.name})
        ['no change', 'perturbed', 'resampled']
    """
    segments = students(study)
    if not segments:
        return charts.message(TITLE, NO_SEGMENTS)
    found = [
        Mutation(segment.generation, name, record)
        for segment in segments
        for name, record in segment.mutations.items()
        if math.isfinite(record.before)
    ]
    if not found:
        return charts.message(TITLE, "No mutation of a clone is stored.")
    weighted = [one for one in found if one.record.origin not in WITHOUT_WEIGHT]
    names = sorted({one.name for one in weighted})
    latest, title = found[-MAX_WEIGHTS:], TITLE
    if len(latest) < len(found):
        title += f": weights of the latest {len(latest):,} of {len(found):,}"
    if len(names) > MAX_PANELS:
        title += f"; {MAX_PANELS} of {len(names)} parameters"
    degrees = _means(weighted, lambda record: abs(record.factor - 1))
    distances = _means(found, lambda record: abs(record.after - record.before), is_log=True)
    fraction = Axis("fraction of range", is_log=bool(distances))
    panels = [
        Panel("degree of mutation, mean", GENERATIONS, Axis("|weight − 1|"), degrees),
        Panel("distance moved, mean", GENERATIONS, fraction, distances),
        *(_weights(name, latest) for name in names[:MAX_PANELS]),
    ]
    return charts.Chart(title, panels, columns=2, size=(6.0, 2.8))


def _means(
    found: Sequence[Mutation], measure: Callable[[MutationRecord], float], *, is_log: bool = False
) -> list[charts.Mark]:
    """A line for each origin: means over the clones of a generation and their parameters."""
    values: dict[Origin, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for one in found:
        if math.isfinite(value := measure(one.record)):
            values[one.record.origin][one.generation].append(value)
    marks: list[charts.Mark] = []
    for origin in (origin for origin in STYLES if origin in values):
        x = sorted(values[origin])
        means = [float(np.mean(values[origin][generation])) for generation in x]
        y = [math.nan if is_log and mean == 0 else mean for mean in means]  # log 0
        name, color, symbol = STYLES[origin]
        marks.append(Line(x, y, color, name))
        if len(x) <= MAX_MARKERS:
            marks.append(Points(x, y, color, name, symbol, 4.0))
    return marks


def _weights(name: str, latest: Sequence[Mutation]) -> Panel:
    ends = [latest[0].generation, latest[-1].generation]
    marks: list[charts.Mark] = [Line(ends, [1.0, 1.0], colors.BLACK, "no change", "dash", 1.0)]
    factors = []
    for origin in (origin for origin in STYLES if origin not in WITHOUT_WEIGHT):
        chosen = [one for one in latest if (one.name, one.record.origin) == (name, origin)]
        if chosen:
            x, y = [one.generation for one in chosen], [one.record.factor for one in chosen]
            label, color, symbol = STYLES[origin]
            marks.append(Points(x, y, color, label, symbol, 4.0, opacity=0.7))
            factors += [factor for factor in y if math.isfinite(factor)]
    n_beyond = sum(factor > MAX_WEIGHT for factor in factors)
    spread = max([MIN_SPREAD, *(abs(factor - 1) for factor in factors)])
    reach = min(1.05 * spread, MAX_WEIGHT - 0.95)
    title = f"{name} ({n_beyond:,} beyond {MAX_WEIGHT:g})" if n_beyond else name
    return Panel(title, GENERATIONS, Axis("weight", range=(1 - reach, 1 + reach)), marks)
