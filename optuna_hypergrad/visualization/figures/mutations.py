"""What mutation does to the hyperparameters of clones, over time."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from optuna.study import Study

from optuna_hypergrad.samplers.population.lineage import MutationRecord, Origin, students
from optuna_hypergrad.visualization.charts import colors
from optuna_hypergrad.visualization.charts.descent import NOBODY
from optuna_hypergrad.visualization.charts.marks import (
    Axis,
    Chart,
    Line,
    Mark,
    Panel,
    Points,
    Symbol,
    message,
)

TITLE = "Mutations"
MOST = 4000  # weights: figures are stored as text, and sent
FEW = 100  # generations that are marked by points
PANELS = 12
HIGHEST = 2.0  # weights lie below, but for steps of a grid
LEAST_SPREAD = 0.01  # of weights around 1, so that an axis is not all of rounding

STYLES: dict[Origin, tuple[str, str, Symbol]] = {
    "resampled": ("drawn anew", colors.GREY, "cross"),
    "perturbed": ("perturbed", colors.ORANGE, "square"),
    "gradient": ("one more step", colors.GREEN, "triangle"),
    "teacher": ("by the teacher", colors.BLUE, "circle"),
}

GENERATIONS = Axis("generation", is_integer=True)


class Seen(NamedTuple):
    """What became of one hyperparameter in one clone."""

    trial: int
    generation: int
    name: str
    told: MutationRecord


def mutations(study: Study) -> Chart:
    """See ``plot_mutations``."""
    everyone = students(study)
    if not everyone:
        return message(TITLE, NOBODY)
    seen = [
        Seen(student.trial, student.generation, name, told)
        for student in everyone
        for name, told in student.mutations.items()
        if math.isfinite(told.before)
    ]
    if not seen:
        return message(TITLE, "No clone has been mutated yet.")
    names = sorted({one.name for one in seen if one.told.origin != "resampled"})
    title = (
        TITLE if len(seen) <= MOST else f"{TITLE}: weights of the latest {MOST:,} of {len(seen):,}"
    )
    title += f"; {PANELS} of {len(names)} parameters" if len(names) > PANELS else ""
    latest = seen[-MOST:]
    weights = [_weights(name, latest) for name in names[:PANELS]]
    return Chart(title, [_degree(seen), _distance(seen), *weights], columns=2, size=(6.0, 2.8))


def _degree(seen: list[Seen]) -> Panel:
    weighted = [one for one in seen if one.told.origin != "resampled"]
    marks = _means(weighted, lambda told: abs(told.factor - 1))
    return Panel("degree of mutation, mean", GENERATIONS, Axis("|weight − 1|"), marks)


def _distance(seen: list[Seen]) -> Panel:
    marks = _means(seen, lambda told: abs(told.after - told.before), is_log=True)
    axis = Axis("fraction of range", is_log=bool(marks))
    return Panel("how far clones are moved, mean", GENERATIONS, axis, marks)


def _means(
    seen: list[Seen], measure: Callable[[MutationRecord], float], *, is_log: bool = False
) -> list[Mark]:
    """A line for each origin: means over the clones of a generation and their parameters.

    A mean of 0 has no place on a logarithmic axis.
    """
    by: dict[Origin, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for one in seen:
        if math.isfinite(value := measure(one.told)):
            by[one.told.origin][one.generation].append(value)
    marks: list[Mark] = []
    for origin in (origin for origin in STYLES if origin in by):
        x = sorted(by[origin])
        means = [float(np.mean(by[origin][generation])) for generation in x]
        y = [math.nan if is_log and mean == 0 else mean for mean in means]
        name, color, symbol = STYLES[origin]
        marks.append(Line(x, y, color, name))
        if len(x) <= FEW:
            marks.append(Points(x, y, color, name, symbol, 4.0))
    return marks


def _weights(name: str, seen: list[Seen]) -> Panel:
    ends = [one.generation for one in (seen[0], seen[-1])]
    marks: list[Mark] = [Line(ends, [1.0, 1.0], colors.BLACK, "no change", "dash", 1.0)]
    for origin in (origin for origin in STYLES if origin != "resampled"):
        found = [one for one in seen if (one.name, one.told.origin) == (name, origin)]
        if found:
            x, y = [one.generation for one in found], [one.told.factor for one in found]
            label, color, symbol = STYLES[origin]
            marks.append(Points(x, y, color, label, symbol, 4.0, opacity=0.7))
    weighted = (one for one in seen if one.name == name and one.told.origin != "resampled")
    factors = [one.told.factor for one in weighted if math.isfinite(one.told.factor)]
    beyond = sum(factor > HIGHEST for factor in factors)
    spread = max([LEAST_SPREAD, *(abs(factor - 1) for factor in factors)])
    reach = min(1.05 * spread, HIGHEST - 0.95)
    title = f"{name} ({beyond:,} beyond {HIGHEST:g})" if beyond else name
    return Panel(title, GENERATIONS, Axis("weight", range=(1 - reach, 1 + reach)), marks)
