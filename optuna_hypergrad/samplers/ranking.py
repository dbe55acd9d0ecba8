"""Constraints: which trials are better, and the way back to where they are feasible."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from optuna.trial import FrozenTrial, TrialState

from optuna_hypergrad.reports import (
    read_constraints,
    total_violation,
)
from optuna_hypergrad.samplers.gradient.steps import Claimed, mean

LARGEST = 1e300  # of a constraint in a mean: of infinite values of both signs there is none


def rank_key(trial: FrozenTrial, maximize: bool) -> tuple[float, float]:
    """What sorts complete trials, the best first: total violation, then loss.

    A feasible trial is better than an infeasible one, and of two infeasible ones that which
    violates its constraints less, as to Optuna's own samplers (constrained domination).
    """
    value = math.inf if trial.value is None or math.isnan(trial.value) else trial.value
    return violation(trial), -value if maximize else value


def violation(trial: FrozenTrial) -> float:
    """Total violation of a trial's constraints; 0 where it is feasible."""
    return total_violation(read_constraints(trial))


def ranked(keys: Sequence[tuple[float, float]]) -> list[float]:
    """Ranks from 0 on, equal for equal keys: losses for a selection among students.

    Those with an infinite loss have an infinite rank.

    Example:
        >>> ranked([(0.0, 3.0), (2.0, 0.1), (0.0, 1.0), (math.inf, math.inf), (0.0, 3.0)])
        [1.0, 2.0, 0.0, inf, 1.0]
    """
    places = {key: float(place) for place, key in enumerate(sorted({*keys}))}
    return [places[key] if math.isfinite(key[1]) else math.inf for key in keys]


def mean_violation(used: Sequence[Claimed]) -> float:
    """Total violation of the mean constraints of replicates; 0 where they are feasible."""
    return total_violation(_mean_constraints(used))


def restoring_gradient(used: Sequence[Claimed]) -> dict[str, float]:
    """Sum of the mean hypergradients of the constraints that replicates violate, by parameter.

    Empty where none is violated, or none of these has a slope: was reported, and is not 0.
    """
    return _summed(_mean_constraints(used), [one.constraint_gradients for one in used])


def violated_by(used: Sequence[Claimed]) -> list[str]:
    """Names of the constraints that replicates violate in the mean."""
    return [name for name, value in _mean_constraints(used).items() if value > 0]


def _summed(
    constraints: Mapping[str, float], reports: Sequence[Mapping[str, Mapping[str, float]]]
) -> dict[str, float]:
    """Sum over the violated constraints of their mean hypergradient; empty if it is 0."""
    total: dict[str, float] = {}
    for constraint in (name for name, value in constraints.items() if value > 0):
        gradient = _mean_by_name([report.get(constraint, {}) for report in reports])
        for name, slope in gradient.items():
            total[name] = total.get(name, 0.0) + slope
    return total if any(total.values()) else {}


def _mean_constraints(used: Sequence[Claimed]) -> dict[str, float]:
    stored = [read_constraints(one.trial) for one in used]
    bounded = [{n: min(max(v, -LARGEST), LARGEST) for n, v in one.items()} for one in stored]
    return _mean_by_name(bounded)


def _mean_by_name(several: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means of the finite values, of whoever has them."""
    values: dict[str, list[float]] = {}
    for one in several:
        for name, value in one.items():
            if math.isfinite(value):
                values.setdefault(name, []).append(value)
    return {name: mean(found) for name, found in values.items()}


def best_first(trials: Sequence[FrozenTrial], maximize: bool) -> list[FrozenTrial]:
    """The complete trials with finite values, the best first; infeasible ones come last."""
    complete = (trial for trial in trials if trial.state == TrialState.COMPLETE)
    finite = (t for t in complete if t.value is not None and math.isfinite(t.value))
    return sorted(finite, key=lambda trial: (*rank_key(trial, maximize), trial.number))
