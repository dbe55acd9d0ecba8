"""Suggesting arrays of hyperparameters in an objective."""

from __future__ import annotations

from typing import Any

from numpy.typing import ArrayLike
from optuna.trial import BaseTrial, FixedTrial, FrozenTrial, Trial

from optuna_hypergrad import arguments
from optuna_hypergrad.algorithms import array_descent
from optuna_hypergrad.arrays.history import descend
from optuna_hypergrad.arrays.space import Lengths, Space, checked_start
from optuna_hypergrad.reports.arrays import FloatArray, StoredArray, read_array, write_array
from optuna_hypergrad.reports.attributes import current_system_attrs
from optuna_hypergrad.reports.objective import check_trial

__all__ = ["suggest_array"]


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
    diverged (its hypergradient is not finite, or two were pruned without any), or two in a row were
    worse than the best one, the search returns to the best, runs it again if it may have been luck,
    and takes half the step from there.

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
        step_size: The longest step of an entry, as a fraction of the range of at most 1; an entry
            with a hypergradient of average size moves half of it.

    Returns:
        Array of 32-bit floats of the given shape.

    Raises:
        ValueError: If an argument is out of range, the trial has suggested something else under
            this name, or earlier trials have an array of another shape or range.
        StoredDataError: If the stored arrays are damaged.

    Warns:
        UserWarning: If trials have completed, and none has reported a hypergradient of the array,
            or all hypergradients at the start have diverged.

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
        >>> x = suggest_array(study.best_trial, "x", 0.0, 1.0, 3)
        >>> bool(abs(x - target).max() < 0.05)
        True
    """
    check_trial(trial)
    arguments.check_name("name", name)
    space = Space.of(low, high, shape, log)
    stored = read_array(trial, name)
    if stored is not None:
        space.check(stored, name, f"trial {trial.number}")
        if isinstance(trial, Trial) and name not in trial.distributions:  # it failed before that
            _suggest_mean(trial, name, space, stored.values, _enqueued(trial, name))
        return stored.values
    if isinstance(trial, FixedTrial | FrozenTrial):
        values = space.full(trial.suggest_float(name, low, high, log=log))
        if isinstance(trial, FixedTrial):
            write_array(trial, name, StoredArray(values, space.low, space.high, log))
        return values
    if not isinstance(trial, Trial):
        raise ValueError(
            f"trial must be one of study.optimize or study.ask, got {type(trial).__name__}: "
            "processes that share a trial cannot learn arrays."
        )
    if name in trial.distributions:
        raise ValueError(f"name: this trial has suggested a parameter {name!r} before.")
    fixed = _enqueued(trial, name)
    values = _next_values(trial, name, space, start, step_size, fixed)
    write_array(trial, name, StoredArray(values, space.low, space.high, log))
    _suggest_mean(trial, name, space, values, fixed)
    return values


def _enqueued(trial: Trial, name: str) -> Any:
    """What a user enqueued for the parameter, or None."""
    return current_system_attrs(trial).get("fixed_params", {}).get(name)


def _suggest_mean(trial: Trial, name: str, space: Space, values: FloatArray, fixed: Any) -> None:
    """Make the mean of the entries a parameter with one value, which no sampler draws."""
    mean = space.mean(values) if fixed is None else fixed
    trial.suggest_float(name, mean, mean, log=space.log)


def _next_values(
    trial: Trial,
    name: str,
    space: Space,
    start: ArrayLike | None,
    step_size: float,
    fixed: Any,
) -> FloatArray:
    """The array of a new trial."""
    if fixed is not None:
        within = arguments.checked_number(
            f"enqueued {name!r}", fixed, f"lie in [{space.low:g}, {space.high:g}]", space.contains
        )
        return space.full(within)
    first = space.ranges.from_unit(0.5) if start is None else checked_start(start, space)
    arguments.checked_number("step_size", step_size, "lie in (0, 1]", lambda size: 0 < size <= 1)
    point = space.ranges.to_unit(space.full(first).ravel().astype(float))
    state = descend(trial.study, name, space, array_descent.init(point, step_size))
    return space.full(space.ranges.from_unit(state.point).reshape(space.shape))
