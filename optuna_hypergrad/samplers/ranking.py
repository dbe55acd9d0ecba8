"""Which trials are better: by their constraints, then by their loss."""

from __future__ import annotations

import math
from collections.abc import Sequence

from optuna.trial import FrozenTrial, TrialState

from optuna_hypergrad.reports import read_constraints, total_violation


def rank_key(trial: FrozenTrial, maximize: bool) -> tuple[float, float]:
    """Sort key of complete trials, the best first: total violation, then loss.

    As in Optuna's own samplers, a feasible trial is better than an infeasible one, and of two
    infeasible ones the one with the smaller violation (constrained domination).
    """
    value = math.inf if trial.value is None or math.isnan(trial.value) else trial.value
    return violation(trial), -value if maximize else value


def violation(trial: FrozenTrial) -> float:
    """Total violation of a trial's constraints; 0 where it is feasible."""
    return total_violation(read_constraints(trial))


def ranked(keys: Sequence[tuple[float, float]]) -> list[float]:
    """Ranks of sort keys from 0 on, equal for equal keys; infinite for an infinite loss.

    Example:
        >>> ranked([(0.0, 3.0), (2.0, 0.1), (0.0, 1.0), (math.inf, math.inf), (0.0, 3.0)])
        [1.0, 2.0, 0.0, inf, 1.0]
    """
    places = {key: float(place) for place, key in enumerate(sorted({*keys}))}
    return [places[key] if math.isfinite(key[1]) else math.inf for key in keys]


def best_first(trials: Sequence[FrozenTrial], maximize: bool) -> list[FrozenTrial]:
    """The complete trials with finite values, the best first; infeasible ones come last."""
    complete = (trial for trial in trials if trial.state == TrialState.COMPLETE)
    finite = (t for t in complete if t.value is not None and math.isfinite(t.value))
    return sorted(finite, key=lambda trial: (*rank_key(trial, maximize), trial.number))
