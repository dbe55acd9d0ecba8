"""Suggesting arrays of hyperparameters in an objective."""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from optuna.distributions import FloatDistribution
from optuna.study import Study, StudyDirection
from optuna.trial import BaseTrial, FixedTrial, FrozenTrial, Trial, TrialState

from optuna_hypergrad import arguments
from optuna_hypergrad.algorithms import array_descent
from optuna_hypergrad.algorithms.ranges import Array, Ranges
from optuna_hypergrad.reports.arrays import (
    FloatArray,
    StoredArray,
    read_array,
    read_array_gradient,
    write_array,
)
from optuna_hypergrad.reports.attributes import current_system_attrs
from optuna_hypergrad.reports.objective import check_trial

Lengths = int | tuple[int, ...] | list[int]
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


def suggest_array(
    trial: BaseTrial,
    name: str,
    low: float,
    high: float,
    shape: Lengths,
    *,
    start: ArrayLike | None = None,
    log: bool = False,
    step_size: float = array_descent.STEP_SIZE,
) -> FloatArray:
    """Suggest an array of hyperparameters: a weight for each example, a rate for each layer.

    The array is one parameter of the study, whatever its size: the mean of its entries, which
    dashboards show. It is not sampled, and so works beside any sampler of the others: each trial
    takes a step of Adam against the hypergradients that earlier trials reported. Trials of the same
    array count as one, with the mean of their hypergradients. Where a trial
    diverged (its hypergradient is not finite, or it was pruned without any), or two in a row were
    no better than the best one, the search returns to the best and takes half the step from there.

    Give the array to ``autodiff.hypergradient`` among ``hypers``, under the same name, and pass
    its result to ``report_hypergradient``. A row of an array of two dimensions may instead be the
    values of a schedule, ``Schedule(f"lr_{i}", lr[i])``: whatever takes a schedule, such as a
    parameter group, then takes a row. Adam needs the losses of all trials to be comparable:
    tune learning rates first, or let few other parameters vary.

    Args:
        trial: A trial of ``study.optimize`` or ``study.ask``; a finished trial, such as
            ``study.best_trial``, returns the array that it had. Of a ``FixedTrial``, and of one
            that was enqueued with a number for ``name``, all entries are that number.
        name: Name of the array, and of its parameter.
        low: Lower bound of every entry, inclusive.
        high: Upper bound of every entry, inclusive.
        shape: Number of entries, or the lengths of several dimensions.
        start: The entries of the first trial, or one number for all; by default the middle of the
            range.
        log: Move on a logarithmic scale; requires ``low > 0``.
        step_size: The longest step of an entry, as a fraction of the range; an entry with a
            hypergradient of average size moves half of it.

    Returns:
        Array of 32-bit floats of the given shape.

    Raises:
        ValueError: If an argument is out of range, the trial has suggested something else under
            this name, or earlier trials have an array of another shape or range.
        StoredDataError: If the stored arrays are damaged.

    Warns:
        UserWarning: If trials have completed, and none has reported a hypergradient of the array.

    Reference:
        Franceschi et al. (2017), "Forward and Reverse Gradient-Based Hyperparameter Optimization",
        Section 5.1, for weights of examples as hyperparameters.

    Example:
        >>> import numpy as np, optuna
        >>> from optuna_hypergrad import report_hypergradient, suggest_array
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> target = np.array([0.0, 0.25, 1.0])
        >>> def objective(trial):
        ...     x = suggest_array(trial, "x", 0.0, 1.0, 3)
        ...     report_hypergradient(trial, {"x": 2 * (x - target)})
        ...     return float(((x - target) ** 2).sum())
        >>> study = optuna.create_study()
        >>> study.optimize(objective, n_trials=25)
        >>> abs(suggest_array(study.best_trial, "x", 0.0, 1.0, 3) - target).max() < 0.05
        True
    """
    check_trial(trial)
    arguments.check_name("name", name)
    space = _Space.of(low, high, shape, log)
    if isinstance(trial, FixedTrial):
        return space.full(trial.suggest_float(name, low, high, log=log))
    stored = read_array(trial, name)
    if stored is not None:
        space.check(stored, name, f"trial {trial.number}")
        return stored.values
    if isinstance(trial, FrozenTrial):
        return space.full(trial.suggest_float(name, low, high, log=log))
    if not isinstance(trial, Trial):
        raise ValueError(
            f"trial must be one of study.optimize or study.ask, got {type(trial).__name__}: "
            "processes that share a trial cannot learn arrays."
        )
    if name in trial.distributions:
        raise ValueError(f"name: this trial has suggested a parameter {name!r} before.")
    values = _next_values(trial, name, space, start, step_size)
    write_array(trial, name, StoredArray(values, space.low, space.high, log))
    mean = space.mean(values)
    trial.suggest_float(name, mean, mean, log=log)  # one value, which no sampler draws
    return values


class _Space(NamedTuple):
    """The entries of an array."""

    shape: tuple[int, ...]
    low: float
    high: float
    log: bool

    @classmethod
    def of(cls, low: float, high: float, shape: Lengths, log: bool) -> _Space:
        lengths = shape if isinstance(shape, tuple | list) else (shape,)
        if not lengths:
            raise ValueError("shape must have a dimension at least, got (); see suggest_schedule.")
        arguments.check_kind("log", log, bool, "True or False")
        lows = arguments.checked_number("low", low)
        highs = arguments.checked_number("high", high)
        FloatDistribution(lows, highs, log=log)  # raises what Optuna raises
        if lows == highs:
            raise ValueError(f"low must be below high, got {low!r} for both.")
        counts = (arguments.checked_count("shape", length) for length in lengths)
        return cls(tuple(counts), lows, highs, log)

    @property
    def ranges(self) -> Ranges:
        """The same range for all entries: arrays of one number."""
        return Ranges(np.array([self.low]), np.array([self.high]), np.array([self.log]))

    def contains(self, value: float) -> bool:
        """Whether a number is in the range."""
        return self.low <= value <= self.high

    def full(self, value: ArrayLike) -> FloatArray:
        """An array of a number, or of the entries of another one."""
        return np.broadcast_to(np.asarray(value, np.float32), self.shape).copy()

    def mean(self, values: FloatArray) -> float:
        """The mean of the entries, on their scale."""
        search = self.ranges.to_search(values.astype(float)).mean()
        return float(self.ranges.to_natural(search)[0])

    def check(self, stored: StoredArray, name: str, where: str) -> None:
        """Raise a ValueError if a stored array is not of this space."""
        known = _Space(stored.values.shape, stored.low, stored.high, stored.log)
        if known != self:
            raise ValueError(
                f"name: {where} has an array {name!r} with {known._asdict()} instead of "
                f"{self._asdict()}; give the new one another name."
            )


def _next_values(
    trial: Trial, name: str, space: _Space, start: ArrayLike | None, step_size: float
) -> FloatArray:
    """The array of a new trial."""
    fixed = current_system_attrs(trial).get("fixed_params", {}).get(name)
    if fixed is not None:
        within = arguments.checked_number(
            f"enqueued {name!r}", fixed, f"lie in [{space.low:g}, {space.high:g}]", space.contains
        )
        return space.full(within)
    first = space.ranges.from_unit(0.5) if start is None else _checked_start(start, space)
    arguments.check_positive("step_size", step_size)
    point = space.ranges.to_unit(space.full(first).ravel().astype(float))
    state = _descend(trial, name, space, array_descent.init(point, step_size))
    return space.full(space.ranges.from_unit(state.point).reshape(space.shape))


def _checked_start(start: ArrayLike, space: _Space) -> Array:
    try:
        found = np.broadcast_to(np.asarray(start, dtype=float), space.shape)
    except (TypeError, ValueError) as error:
        raise ValueError(f"start must be numbers of shape {space.shape}, or one: {error}") from None
    if not ((found >= space.low) & (found <= space.high)).all():
        raise ValueError(
            f"start must lie in [{space.low:g}, {space.high:g}], got values from "
            f"{found.min():g} to {found.max():g}."
        )
    return found


class _Group(NamedTuple):
    """The finished trials of one array, and what they found."""

    values: FloatArray
    gradients: list[Array]  # finite ones
    losses: list[float]  # of the trials with these
    diverged: list[int]  # numbers of the other trials

    def outcome(self, ranges: Ranges) -> array_descent.Outcome | None:
        """The mean outcome; None of trials that failed, or reported nothing."""
        values = self.values.ravel().astype(float)
        point = ranges.to_unit(values)
        if self.gradients:
            gradient = ranges.unit_gradient(values, np.mean(self.gradients, axis=0))
            return array_descent.Outcome(point, float(np.mean(self.losses)), gradient)
        return array_descent.Outcome(point, math.nan, None) if self.diverged else None


def _descend(
    trial: Trial, name: str, space: _Space, state: array_descent.State
) -> array_descent.State:
    """The state after all finished trials of the study, in the order of their arrays."""
    for group in _groups(trial.study, name, space):
        outcome = group.outcome(space.ranges)
        if outcome is not None:
            state = array_descent.advance(state, outcome)
    return state


def _groups(study: Study, name: str, space: _Space) -> list[_Group]:
    groups: dict[bytes, _Group] = {}
    n_complete = 0
    for trial in study.get_trials(deepcopy=False, states=FINISHED):
        stored = read_array(trial, name)
        if stored is None:
            continue
        space.check(stored, name, f"trial {trial.number}")
        group = groups.setdefault(stored.values.tobytes(), _Group(stored.values, [], [], []))
        gradient = read_array_gradient(trial, name)
        n_complete += trial.state == TrialState.COMPLETE and gradient is None
        if gradient is not None and np.isfinite(gradient).all():
            if trial.state != TrialState.FAIL:
                group.gradients.append(gradient.ravel().astype(float))
                group.losses.append(_loss(study, trial))
        elif gradient is not None or trial.state == TrialState.PRUNED:
            group.diverged.append(trial.number)
    if n_complete and not any(group.gradients or group.diverged for group in groups.values()):
        warnings.warn(_NO_GRADIENT.format(name), stacklevel=5)
    return [*groups.values()]


def _loss(study: Study, trial: FrozenTrial) -> float:
    """What is minimised; NaN with several objectives, and without a value."""
    if len(study.directions) > 1 or trial.value is None:
        return math.nan
    return -trial.value if study.direction == StudyDirection.MAXIMIZE else trial.value


_NO_GRADIENT = (
    "suggest_array: trials have completed, and none has reported a hypergradient of {!r}, so that "
    "it cannot move; pass the result of autodiff.hypergradient to report_hypergradient."
)
