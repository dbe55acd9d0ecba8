"""The hypergradient that an objective reports.

The constraints of a trial, as Optuna stores them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from optuna_hypergrad.arguments import check_kind, check_name, checked_number, short
from optuna_hypergrad.reports.attributes import (
    CONSTRAINT_GRADIENT,
    CONSTRAINTS,
    GRADIENT,
    GRADIENT_NORM,
    check_trial,
    own_keys,
    read_values,
    reading,
    report_values,
    set_user_attr,
    write_decision,
)

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.trial import BaseTrial, FrozenTrial

DIGITS = 6  # of what is only to be seen


def report_hypergradient(
    trial: BaseTrial, gradient: Mapping[str, Any], *, constraint: str | None = None
) -> None:
    """Report the hypergradient of the trial's validation loss to the sampler.

    Call it once, before the objective returns. Entries that are NaN or infinite are stored as
    such and make the trial count as diverged.

    With ``constraint``, report the hypergradient of a constraint instead, once for each:
    the samplers leave a point that violates constraints along these. It is enough to
    report it of a constraint that is violated. Entries that are NaN or infinite say nothing there,
    and where all are 0, the samplers go on as if it were not reported.

    Args:
        trial: The running trial that the objective was given.
        gradient: Derivative of a loss to be *minimised*, whatever the study's direction, by the
            names of trial parameters, in loss per unit of the parameter. Floats, numpy scalars
            and tensors of one element; parameters may be left out.
        constraint: Name of the constraint that ``gradient`` is the derivative of: the ``key`` of
            ``Trial.set_constraint``, or ``"0"``, ``"1"``, … for the values that a
            ``constraints_func`` returns. None for the loss.

    Raises:
        ValueError: If ``gradient`` is empty, names what the trial has not suggested or cannot
            differentiate, or holds what is not one number; if the trial has reported before, or
            is a ``FrozenTrial`` (to run an objective again, use a ``FixedTrial``).
        optuna.exceptions.UpdateFinishedTrialError: If the trial has finished.

    Example:
        >>> import optuna
        >>> from optuna_hypergrad import GradientSampler, report_hypergradient
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> def objective(trial):
        ...     x = trial.suggest_float("x", -1, 1)
        ...     report_hypergradient(trial, {"x": 2 * (x - 0.3)})
        ...     return (x - 0.3) ** 2
        >>> study = optuna.create_study(sampler=GradientSampler(seed=0))
        >>> study.optimize(objective, n_trials=20)
        >>> round(study.best_params["x"], 2)
        0.3
    """
    check_trial(trial)
    if isinstance(gradient, Mapping) and not gradient:
        raise ValueError(_EMPTY if constraint is None else _EMPTY_OF.format(constraint))
    if constraint is not None:
        check_name("constraint", constraint)
        what = f"a hypergradient of the constraint {constraint!r}"
        report_values(trial, f"{CONSTRAINT_GRADIENT}:{constraint}", "gradient", gradient, what)
        return
    values = report_values(trial, GRADIENT, "gradient", gradient, "a hypergradient")
    norm = float(np.linalg.norm(list(values.values())))
    if math.isfinite(norm):
        set_user_attr(trial, GRADIENT_NORM, float(f"{norm:.{DIGITS}g}"))


def read_gradient(trial: FrozenTrial) -> dict[str, float] | None:
    """The hypergradient that the trial itself reported, or None.

    A report that a retried or copied trial only inherited does not count.

    Raises:
        StoredDataError: If the attribute was not written by ``report_hypergradient``.
    """
    return read_values(trial, GRADIENT)


def read_constraint_gradients(trial: FrozenTrial) -> dict[str, dict[str, float]]:
    """The hypergradients of constraints that the trial itself reported, by constraint.

    Raises:
        StoredDataError: If an attribute was not written by ``report_hypergradient``.
    """
    prefix = f"{CONSTRAINT_GRADIENT}:"
    reported = {
        key.removeprefix(prefix): read_values(trial, key) for key in own_keys(trial, prefix)
    }
    return {name: values for name, values in reported.items() if values is not None}


_EMPTY = (
    "gradient is empty: nothing in the update is a Schedule, so that nothing can be learned; "
    "see optuna_hypergrad.suggest_schedule."
)
_EMPTY_OF = (
    "gradient is empty; expected the derivative of the constraint {!r} by at least one parameter. "
    "Leave out the call where the constraint depends on none."
)


def read_constraints(trial: FrozenTrial) -> dict[str, float]:
    """Constraint values of a trial by name; the trial is feasible where none exceeds 0.

    As ``trial.constraints`` of Optuna 5 has them, on Optuna 4 as well: those of
    ``Trial.set_constraint`` under their names, those of a sampler's ``constraints_func`` under
    ``"0"``, ``"1"``, … A trial without constraints is feasible.

    Raises:
        StoredDataError: If an attribute was not written by Optuna.
    """
    attrs = trial.system_attrs
    with reading(trial.number, CONSTRAINTS):
        return {name: _value(name, value) for name, value in _stored(attrs)}


def write_constraints(storage: BaseStorage, trial_id: int, values: Sequence[float]) -> None:
    """Store what a ``constraints_func`` returned for a running trial, as Optuna's samplers do.

    Arrays and truth values are taken as Optuna's samplers take them: True is violated.

    Raises:
        ValueError: If it is no sequence of numbers, or one is NaN.
    """
    what = "what constraints_func returns"
    values = values.tolist() if hasattr(values, "tolist") else values
    check_kind(what, values, Sequence, "a sequence of floats")
    numbers = [float(value) if _is_truth(value) else value for value in values]
    for number in numbers:
        checked_number(what, number, "hold numbers, none of them NaN", lambda v: not math.isnan(v))
    write_decision(storage, trial_id, CONSTRAINTS, [float(number) for number in numbers])


def total_violation(constraints: Mapping[str, float]) -> float:
    """Sum of the constraint values that exceed 0: what Optuna compares infeasible trials by.

    Example:
        >>> total_violation({"memory": 2.0, "latency": 0.5, "size": -1.0})
        2.5
    """
    return sum(value for value in constraints.values() if value > 0)


def _stored(attrs: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for i, value in enumerate(attrs.get(CONSTRAINTS) or ()):
        yield str(i), value
    prefix = f"{CONSTRAINTS}:"
    for key, value in attrs.items():
        if key.startswith(prefix):
            yield key.removeprefix(prefix), value


def _is_truth(value: Any) -> bool:
    """Whether it is True or False, which Optuna's samplers store as they are."""
    return isinstance(value, bool | np.bool_)


def _value(name: str, value: Any) -> float:
    if not (isinstance(value, Real) or _is_truth(value)) or math.isnan(value):
        raise ValueError(f"{short(name)} must be a number, got {short(value)}")
    return float(value)
