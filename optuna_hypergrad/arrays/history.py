"""What the finished trials of a study say about an array, and where that leads."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field

import numpy as np
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from optuna_hypergrad.algorithms import array_descent
from optuna_hypergrad.algorithms.ranges import Array, Ranges
from optuna_hypergrad.arrays.space import Space
from optuna_hypergrad.reports.arrays import FloatArray, read_array, read_array_gradient

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


@dataclass
class _Group:
    """The finished trials of one array, and what they found."""

    values: FloatArray
    gradients: list[Array] = field(default_factory=list)  # finite ones
    losses: list[float] = field(default_factory=list)  # of the trials with these
    n_diverged: int = 0  # trials with a hypergradient that is not finite
    n_pruned: int = 0  # trials that were pruned without any
    n_silent: int = 0  # trials that completed without any

    @property
    def has_diverged(self) -> bool:
        """Whether nothing but divergence is known; one pruned trial may have had bad luck."""
        return not self.gradients and (self.n_diverged > 0 or self.n_pruned > 1)

    def outcome(self, ranges: Ranges) -> array_descent.Outcome | None:
        """The mean outcome; None of trials that failed, or reported nothing."""
        values = self.values.ravel().astype(float)
        point = ranges.to_unit(values)
        if self.gradients:
            gradient = ranges.unit_gradient(values, np.mean(self.gradients, axis=0))
            known = [loss for loss in self.losses if math.isfinite(loss)]
            loss = float(np.mean(known)) if known else self.losses[0]
            n_runs = len(self.gradients) + self.n_diverged + self.n_pruned + self.n_silent
            return array_descent.Outcome(point, loss, gradient, n_runs)
        return array_descent.Outcome(point, math.nan, None) if self.has_diverged else None


def descend(
    study: Study, name: str, space: Space, state: array_descent.State
) -> array_descent.State:
    """The state after all finished trials of the study, in the order of their arrays."""
    groups = _groups(study, name, space)
    for group in groups:
        outcome = group.outcome(space.ranges)
        if outcome is not None:
            state = array_descent.advance(state, outcome)
    if state.best is None and any(group.has_diverged for group in groups):
        warnings.warn(_DIVERGED.format(name), stacklevel=4)
    return state


def _groups(study: Study, name: str, space: Space) -> list[_Group]:
    groups: dict[bytes, _Group] = {}
    for trial in study.get_trials(deepcopy=False, states=FINISHED):
        stored, gradient = read_array(trial, name), read_array_gradient(trial, name)
        has_failed = trial.state == TrialState.FAIL
        if stored is None or (gradient is None and has_failed):
            continue
        space.check(stored, name, f"trial {trial.number}")
        group = groups.setdefault(stored.values.tobytes(), _Group(stored.values))
        if gradient is None:
            group.n_pruned += trial.state == TrialState.PRUNED
            group.n_silent += trial.state == TrialState.COMPLETE
        elif not np.isfinite(gradient).all():
            group.n_diverged += 1
        elif not has_failed:
            group.gradients.append(gradient.ravel())
            group.losses.append(_loss(study, trial))
    is_silent = any(group.n_silent for group in groups.values())
    if is_silent and not any(group.gradients or group.n_diverged for group in groups.values()):
        warnings.warn(_NO_GRADIENT.format(name), stacklevel=5)
    return [*groups.values()]


def _loss(study: Study, trial: FrozenTrial) -> float:
    """What is minimised; infinite of a pruned trial, NaN with several objectives."""
    if len(study.directions) > 1:
        return math.nan
    if trial.state != TrialState.COMPLETE or trial.value is None or not math.isfinite(trial.value):
        return math.inf
    return -trial.value if study.direction == StudyDirection.MAXIMIZE else trial.value


_DIVERGED = (
    "suggest_array: all trials with hypergradients of {!r} have diverged at its start; pass "
    "another start, or make the training stable there."
)
_NO_GRADIENT = (
    "suggest_array: trials have completed, and none has reported a hypergradient of {!r}, so that "
    "it cannot move; pass the result of autodiff.hypergradient to report_hypergradient."
)
