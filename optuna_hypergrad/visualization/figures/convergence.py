"""The objective value by trial."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from optuna_hypergrad.algorithms.sign_descent import Verdict
from optuna_hypergrad.arguments import checked_number
from optuna_hypergrad.reports.claims import read_claim
from optuna_hypergrad.reports.objective import read_gradient
from optuna_hypergrad.reports.proposals import read_proposal
from optuna_hypergrad.samplers.describe import short
from optuna_hypergrad.samplers.gradient.history import failure_of, outer_steps
from optuna_hypergrad.samplers.gradient.recommendation import is_modelled, recommendation
from optuna_hypergrad.samplers.gradient.search import ClaimedTrial
from optuna_hypergrad.samplers.studies import maximizes, violation
from optuna_hypergrad.visualization import charts
from optuna_hypergrad.visualization.charts import Axis, Band, Line, Points, axes, colors

TITLE = "Convergence"
MAX_TEXTS = 300  # trials up to which points are large and have hover texts
WIDE = 10.0  # ratio of the highest to the lowest value beyond which the axis is logarithmic

# The outcome of a trial: colour and symbol.
STYLES: dict[str, tuple[str, charts.Symbol]] = {
    "trial": (colors.GREY, "circle"),
    "accepted": (colors.BLUE, "circle"),
    "with hypergradient": (colors.BLUE, "circle"),
    "measured again": (colors.SKY, "square"),
    "rejected": (colors.ORANGE, "triangle"),
    "infeasible": (colors.BLACK, "open circle"),
    "diverged": (colors.RED, "cross"),
    "undecided": (colors.GREY, "open circle"),
    "pruned": (colors.PINK, "cross"),
    "failed": (colors.BLACK, "cross"),
    "running": (colors.GREEN, "tick"),
}
WITHOUT_VALUE = ("diverged", "pruned", "failed", "running")


def convergence(study: Study, retrained: float | Sequence[float] | None = None) -> charts.Chart:
    """Plot the objective value and the outcome of each trial, and the best value so far.

    Trials without a value lie in a separate strip above the others. Where values span more than a
    decade, the axis is logarithmic; losses of more than ten thousand times the median lie at its
    edge. Of trials that a Gaussian process proposes, those that reported
    a hypergradient are blue, and a star marks the recommended one.

    Args:
        study: A study of any sampler, with one objective.
        retrained: Objective values of training again with the best schedule: one value, or one for
            each seed.

    Raises:
        ValueError: If ``study`` is not a study or has several objectives, or if ``retrained`` is
            not finite.
        StoredDataError: If the stored data is damaged.

    Example:
        >>> import optuna
        >>> from optuna_hypergrad import GradientSampler, report_hypergradient, suggest_schedule
        >>> from optuna_hypergrad.visualization import plot_convergence
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> def objective(trial):
        ...     lr = suggest_schedule(trial, "lr", 0.0, 1.0, windows=3)
        ...     errors = [value - best for value, best in zip(lr.values, [0.8, 0.7, 0.1])]
        ...     report_hypergradient(trial, dict(zip(lr.names, errors)))
        ...     return sum(error**2 for error in errors) / 2
        >>> study = optuna.create_study(sampler=GradientSampler(seed=0))
        >>> study.optimize(objective, n_trials=6)
        >>> [trace.name for trace in plot_convergence(study, retrained=0.01).data]
        ['retrained best', 'best so far', 'with hypergradient', 'recommended']
    """
    retrained = _checked(retrained)
    verdicts = {number: step.verdict for step in outer_steps(study) for number in step.trials}
    trials = study.get_trials(deepcopy=False)
    values = {
        trial.number: trial.value
        for trial in trials
        if trial.state == TrialState.COMPLETE
        and trial.value is not None
        and math.isfinite(trial.value)
    }
    if not values:
        return charts.message(TITLE, "No trial has completed yet.")
    violations = {trial.number: excess for trial in trials if (excess := violation(trial))}
    outcomes = {
        trial.number: _outcome(trial, trial.number in values, verdicts)
        for trial in trials
        if trial.state != TrialState.WAITING
    }
    drawn = [*values.values(), *retrained]
    is_log = min(drawn) > 0 and max(drawn) > WIDE * min(drawn)
    if is_log and not maximizes(study):
        edge = axes.MAX_EXCESS * statistics.median(drawn)
        drawn = [min(value, edge) for value in drawn]
    low, high, strip = _ends(drawn, is_log)
    last = trials[-1].number
    feasible = {number: value for number, value in values.items() if number not in violations}
    marks = [
        *_retrained(retrained, last),
        *_best_so_far(feasible, last, maximizes(study)),
        *_points(outcomes, values, violations, max(drawn), strip),
        *_recommended(study),
    ]
    y = Axis("objective value", is_log)
    if any(number not in values for number in outcomes):
        marks.append(Line([-0.5, last + 0.5], [high, high], colors.GREY, dash="dot", width=1.0))
        ticks = axes.log_ticks(low, high) if is_log else axes.linear_ticks(low, high)
        end = strip * strip / high if is_log else 2 * strip - high
        y = Axis("objective value", is_log, ticks={**ticks, strip: "no value"}, range=(low, end))
    panel = charts.Panel("", Axis("trial", is_integer=True), y, marks)
    return charts.Chart(TITLE, [panel], size=(8.0, 4.2))


def _checked(retrained: Any) -> list[float]:
    if retrained is None:
        return []
    is_list = isinstance(retrained, Sequence | np.ndarray) and not isinstance(retrained, str)
    values = retrained if is_list else [retrained]
    return [checked_number("retrained", value, "be finite", math.isfinite) for value in values]


def _recommended(study: Study) -> list[Points]:
    """A star at the recommended trial of a Gaussian process."""
    found = recommendation(study) if is_modelled(study) else None
    if found is None or found.trial.value is None:
        return []
    number, value = found.trial.number, found.trial.value
    texts = [_text(number, "recommended", value, None)]
    return [Points([number], [value], colors.RED, "recommended", "star", 9.0, texts=texts)]


def _outcome(trial: FrozenTrial, has_value: bool, verdicts: Mapping[int, Verdict]) -> str:
    if trial.state == TrialState.RUNNING:
        return "running"
    claim = read_claim(trial.number, trial.system_attrs)
    if not has_value or (claim is not None and ClaimedTrial.of(trial, claim).diverged):
        return failure_of(trial)
    if read_proposal(trial.number, trial.system_attrs) is not None and read_gradient(trial):
        return "with hypergradient"
    is_undecided = bool(verdicts) and claim is not None
    return verdicts.get(trial.number) or ("undecided" if is_undecided else "trial")


def _ends(values: Sequence[float], is_log: bool) -> tuple[float, float, float]:
    """The ends of the axis of values, and the middle of the strip above for trials without one."""
    low, high = min(values), max(values)
    if is_log:
        margin = (high / low) ** 0.06
        return low / margin, high * margin, high * margin**2
    margin = 0.06 * ((high - low) or abs(high) or 1.0)
    return low - margin, high + margin, high + 2 * margin


def _points(
    outcomes: Mapping[int, str],
    values: Mapping[int, float],
    violations: Mapping[int, float],
    edge: float,
    strip: float,
) -> list[Points]:
    numbers: dict[str, list[int]] = defaultdict(list)
    for number, outcome in outcomes.items():
        is_infeasible = outcome not in WITHOUT_VALUE and number in violations
        numbers["infeasible" if is_infeasible else outcome].append(number)
    points = []
    for name, (color, symbol) in STYLES.items():
        x = numbers.get(name, [])
        texts = [_text(n, outcomes[n], values.get(n), violations.get(n)) for n in x]
        y = [min(values[n], edge) if n in values else strip for n in x]
        if 0 < len(x) <= MAX_TEXTS:
            points.append(Points(x, y, color, name, symbol, 5.0, texts=texts))
        elif x:
            points.append(Points(x, y, color, name, symbol, 3.0))
    return points


def _text(number: int, outcome: str, value: float | None, violation: float | None) -> str:
    parts = [] if outcome == "trial" else [outcome]
    parts += [] if violation is None else [f"infeasible by {short(violation)}"]
    parts.append("no value" if value is None else f"{value:.4g}")
    return f"trial {number}: {', '.join(parts)}"


def _best_so_far(values: Mapping[int, float], last: int, maximize: bool) -> list[charts.Mark]:
    """A step function with a corner at each better trial."""
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


def _retrained(values: Sequence[float], last: int) -> list[charts.Mark]:
    """The mean, over a band of the range."""
    if not values:
        return []
    x, mean = [-0.5, last + 0.5], math.fsum(values) / len(values)
    line = Line(x, [mean, mean], colors.GREEN, "retrained best", dash="dash", width=2.0)
    low, high = min(values), max(values)
    return [Band(x, [low] * 2, [high] * 2, colors.GREEN), line] if high > low else [line]
