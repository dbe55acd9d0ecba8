"""The constraints of a trial, as Optuna stores them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from optuna_hypergrad.arguments import check_kind, checked_number, short
from optuna_hypergrad.reports.attributes import reading, write_decision
from optuna_hypergrad.reports.keys import CONSTRAINTS

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial


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
