"""The objective value by trial, what became of each, and the best so far."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from optuna_hypergrad.algorithms.sign_descent import Verdict
from optuna_hypergrad.arguments import checked_number
from optuna_hypergrad.reports import read_claim
from optuna_hypergrad.samplers.describe import short
from optuna_hypergrad.samplers.gradient.history import lost_as, outer_steps
from optuna_hypergrad.samplers.gradient.steps import Claimed
from optuna_hypergrad.samplers.ranking import violation
from optuna_hypergrad.samplers.studies import maximizes
from optuna_hypergrad.visualization.charts import colors
from optuna_hypergrad.visualization.charts.axes import linear_ticks, log_ticks
from optuna_hypergrad.visualization.charts.marks import (
    Axis,
    Band,
    Chart,
    Line,
    Mark,
    Panel,
    Points,
    Symbol,
    message,
)

TITLE = "Convergence"
FEW = 300  # points that are large, and of which more is said where the mouse is
WIDE = 10.0  # highest over lowest value, from where the axis is logarithmic

# What became of a trial: colour and symbol.
FATES: dict[str, tuple[str, Symbol]] = {
    "trial": (colors.GREY, "circle"),
    "accepted": (colors.BLUE, "circle"),
    "measured again": (colors.SKY, "square"),
    "rejected": (colors.ORANGE, "triangle"),
    "infeasible": (colors.BLACK, "open circle"),
    "diverged": (colors.RED, "cross"),
    "undecided": (colors.GREY, "open circle"),
    "pruned": (colors.PINK, "cross"),
    "failed": (colors.BLACK, "cross"),
    "running": (colors.GREEN, "tick"),
}
LOST = ("diverged", "pruned", "failed", "running")  # of these, feasibility tells nothing


def convergence(study: Study, retrained: float | Sequence[float] | None = None) -> Chart:
    """See ``plot_convergence``."""
    again = _checked(retrained)
    verdicts = _verdicts(study)
    trials = study.get_trials(deepcopy=False)
    values = {trial.number: value for trial in trials if (value := _value(trial)) is not None}
    if not values:
        return message(TITLE, "No trial has completed yet.")
    violations = {trial.number: excess for trial in trials if (excess := violation(trial))}
    feasible = {number: value for number, value in values.items() if number not in violations}
    best = _best_so_far(feasible, trials[-1].number, maximizes(study))
    drawn = [*values.values(), *again]
    is_log = min(drawn) > 0 and max(drawn) > WIDE * min(drawn)
    fates = _fates(trials, values, verdicts)
    low, high, strip = _ends(drawn, is_log)
    marks = [
        *_retrained(again, trials[-1].number),
        *best,
        *_points(fates, values, violations, strip),
    ]
    y = Axis("objective value", is_log)
    if any(number not in values for number in fates):
        edge = [-0.5, trials[-1].number + 0.5], [high, high]
        marks.append(Line(*edge, colors.GREY, dash="dot", width=1.0))
        ticks = {**(log_ticks if is_log else linear_ticks)(low, high), strip: "no value"}
        beyond = strip * strip / high if is_log else 2 * strip - high
        y = Axis("objective value", is_log, ticks=ticks, range=(low, beyond))
    return Chart(TITLE, [Panel("", Axis("trial", is_integer=True), y, marks)], size=(8.0, 4.2))


def _checked(retrained: Any) -> list[float]:
    if retrained is None:
        return []
    is_list = isinstance(retrained, Sequence | np.ndarray) and not isinstance(retrained, str)
    given = retrained if is_list else [retrained]
    return [checked_number("retrained", value, "be finite", math.isfinite) for value in given]


def _verdicts(study: Study) -> dict[int, Verdict]:
    """By trial that decided an outer step, what became of that."""
    return {number: step.verdict for step in outer_steps(study) for number in step.trials}


def _value(trial: FrozenTrial) -> float | None:
    """The value that the trial completed with, if it can be drawn."""
    if trial.state != TrialState.COMPLETE or trial.value is None:
        return None
    return trial.value if math.isfinite(trial.value) else None


def _fates(
    trials: Sequence[FrozenTrial], values: Mapping[int, float], verdicts: Mapping[int, Verdict]
) -> dict[int, str]:
    """By number, what became of each trial; those that wait have not begun to become."""
    begun = (trial for trial in trials if trial.state != TrialState.WAITING)
    return {trial.number: _fate(trial, trial.number in values, verdicts) for trial in begun}


def _fate(trial: FrozenTrial, has_value: bool, verdicts: Mapping[int, Verdict]) -> str:
    if trial.state == TrialState.RUNNING:
        return "running"
    claim = read_claim(trial.number, trial.system_attrs)
    if not has_value or (claim is not None and Claimed.of(trial, claim).diverged):
        return lost_as(trial)
    is_beside = bool(verdicts) and claim is not None
    return verdicts.get(trial.number) or ("undecided" if is_beside else "trial")


def _ends(values: Sequence[float], is_log: bool) -> tuple[float, float, float]:
    """Where an axis of values begins and ends, and the middle of the strip above its end.

    Trials without a value are in the strip.
    """
    low, high = min(values), max(values)
    if is_log:
        margin = (high / low) ** 0.06
        return low / margin, high * margin, high * margin**2
    margin = 0.06 * ((high - low) or abs(high) or 1.0)
    return low - margin, high + margin, high + 2 * margin


def _points(
    fates: Mapping[int, str],
    values: Mapping[int, float],
    violations: Mapping[int, float],
    strip: float,
) -> Iterator[Mark]:
    kinds: dict[str, list[int]] = defaultdict(list)
    for number, fate in fates.items():
        is_drawn_so = fate not in LOST and number in violations
        kinds["infeasible" if is_drawn_so else fate].append(number)
    for name, (color, symbol) in FATES.items():
        if numbers := kinds.get(name):
            y = [values.get(number, strip) for number in numbers]
            is_few = len(numbers) <= FEW
            told = (_told(n, fates[n], values.get(n), violations.get(n)) for n in numbers)
            size = 5.0 if is_few else 3.0
            texts = [*told] if is_few else []
            yield Points(numbers, y, color, name, symbol, size, texts=texts)


def _told(number: int, fate: str, value: float | None, excess: float | None) -> str:
    """What is said of a trial where the mouse is."""
    parts = [] if fate == "trial" else [fate]
    parts += [] if excess is None else [f"infeasible by {short(excess)}"]
    parts.append("no value" if value is None else f"{value:.4g}")
    return f"trial {number}: {', '.join(parts)}"


def _best_so_far(values: Mapping[int, float], last: int, maximize: bool) -> list[Mark]:
    """A stair with a corner at each better trial, if there is one."""
    if not values:
        return []
    better = max if maximize else min
    x: list[float] = []
    y: list[float] = []
    for number, value in sorted(values.items()):
        if not y or better(value, y[-1]) != y[-1]:
            x.append(number)
            y.append(value)
    x, y = [*x, last + 0.5], [*y, y[-1]]
    return [Line(x, y, colors.BLACK, "best so far", is_step=True, width=1.8)]


def _retrained(values: Sequence[float], last: int) -> list[Mark]:
    if not values:
        return []
    x, mean = [-0.5, last + 0.5], math.fsum(values) / len(values)
    line = Line(x, [mean, mean], colors.GREEN, "retrained best", dash="dash", width=2.0)
    low, high = min(values), max(values)
    return [Band(x, [low] * 2, [high] * 2, colors.GREEN), line] if high > low else [line]
