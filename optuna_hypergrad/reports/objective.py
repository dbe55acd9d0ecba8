"""What an objective reports of its trial: hypergradients, constraints, schedules, tangent norms."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from math import fsum
from numbers import Real
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from optuna.distributions import CategoricalDistribution
from optuna.storages import BaseStorage
from optuna.trial import BaseTrial, FrozenTrial

from optuna_hypergrad.arguments import check_kind, checked_number, short
from optuna_hypergrad.reports.attributes import (
    CONSTRAINT_GRADIENT,
    CONSTRAINT_PREFIX,
    CONSTRAINTS,
    GRADIENT,
    SCHEDULES,
    TANGENTS,
    Fields,
    marked,
    read_report,
    reading,
    write_decision,
    write_report,
)

MOST_VALUES = 10_000  # of one schedule: only their number is stored, and the names are built
LARGEST = 1e300  # of a constraint in a mean: infinite values of both signs have none


class Shape(NamedTuple):
    """What the parameters of a schedule do not say about it."""

    size: int
    """How many parameters it has."""
    form: str
    """How values move between them; see ``Schedule``."""
    is_shared: bool
    """Whether neighbouring parameters may move together, as with ``windows="auto"``."""


class Report(NamedTuple):
    """What an objective reported of one trial, or on average of several replicates."""

    gradient: Mapping[str, float] | None = None
    """Hypergradient of the loss, by parameter; None if there was none."""
    constraint_gradients: Mapping[str, Mapping[str, float]] = {}
    """Hypergradients of constraints, by constraint and parameter."""
    constraints: Mapping[str, float] = {}
    """Values of the constraints; the trial is feasible where none exceeds 0."""
    schedules: Mapping[str, Shape] = {}

    @classmethod
    def of(cls, trial: FrozenTrial) -> Report:
        """The report of a trial.

        Raises:
            StoredDataError: If a storage returns something that was not reported.
        """
        return cls(
            read_gradient(trial),
            read_constraint_gradients(trial),
            read_constraints(trial),
            read_shapes(trial),
        )

    @classmethod
    def mean(cls, reports: Sequence[Report]) -> Report:
        """The mean of what several replicates reported; entries that are not finite are left out.

        Constraints are cut off at ±1e300, so that an infinite violation remains one.
        """
        gradients = [one.constraint_gradients for one in reports]
        names = {name for one in gradients for name in one}
        bounded = [
            {name: min(max(v, -LARGEST), LARGEST) for name, v in one.constraints.items()}
            for one in reports
        ]
        return cls(
            mean_by_name(one.gradient or {} for one in reports),
            {name: mean_by_name(one.get(name, {}) for one in gradients) for name in names},
            mean_by_name(bounded),
        )

    @property
    def parameters(self) -> set[str]:
        """The parameters with a hypergradient of the loss or of a constraint."""
        return {*(self.gradient or {})}.union(*self.constraint_gradients.values())

    @property
    def violated(self) -> list[str]:
        """The constraints that are violated."""
        return [name for name, value in self.constraints.items() if value > 0]

    def restoring_gradient(self) -> dict[str, float]:
        """Sum of the hypergradients of the violated constraints; empty if it is 0."""
        total: dict[str, float] = {}
        for constraint in self.violated:
            for name, value in self.constraint_gradients.get(constraint, {}).items():
                if math.isfinite(value):
                    total[name] = total.get(name, 0.0) + value
        return total if any(total.values()) else {}


def values_by_name(several: Iterable[Mapping[str, float]]) -> dict[str, list[float]]:
    """The finite values of several mappings, by name."""
    values: dict[str, list[float]] = {}
    for one in several:
        for name, value in one.items():
            if math.isfinite(value):
                values.setdefault(name, []).append(value)
    return values


def mean_by_name(several: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Means of the finite values of several mappings, by name."""
    return {name: mean(values) for name, values in values_by_name(several).items()}


def mean(values: Sequence[float]) -> float:
    """The mean, even where the sum exceeds the largest float."""
    try:
        return fmean(values)
    except OverflowError:
        return fsum(value / len(values) for value in values)


def check_trial(trial: Any) -> None:
    """Raise a ValueError unless ``trial`` is an Optuna trial of any class."""
    check_kind("trial", trial, BaseTrial, "an Optuna trial")


def report_values(
    trial: BaseTrial, key: str, argument: str, values: Any, what: str
) -> dict[str, float]:
    """Check and write one number for each of some numeric parameters, once a trial.

    Args:
        trial: The running trial.
        key: The attribute.
        argument: The caller's name of ``values``, for errors.
        values: By parameter.
        what: What is reported, for the error if it was reported before.

    Returns:
        The values as floats.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{argument} must map parameter names to floats, got {values!r}.")
    if not values:
        raise ValueError(f"{argument} is empty; expected at least one parameter.")
    distributions = trial.distributions  # a copy, made at each access
    for name in values:
        if name not in distributions:
            known = ", ".join(distributions) or "none so far"
            raise ValueError(f"{argument}: {name!r} is not a parameter of this trial ({known}).")
        if isinstance(distributions[name], CategoricalDistribution):
            raise ValueError(f"{argument}: {name!r} is categorical and has no derivative.")
    floats = {name: as_float(argument, name, value) for name, value in values.items()}
    if read_report(trial, key, lambda fields: fields) is not None:
        raise ValueError(f"trial {trial.number} has already reported {what}.")
    write_report(trial, key, {"trial": trial.number, "values": marked(floats)})
    return floats


def as_float(argument: str, name: str, value: Any) -> float:
    """A float, a numpy scalar, or a tensor of one element on any device, as a float."""
    shape = tuple(getattr(value, "shape", ()))
    if math.prod(shape) != 1:
        raise ValueError(f"{argument}: {name!r} must be one number, got shape {shape}.")
    number = value.item() if hasattr(value, "item") else value
    if isinstance(number, bool) or not isinstance(number, Real):
        raise ValueError(f"{argument}: {name!r} must be a number, got {value!r}.")
    return float(number)


def read_values(trial: FrozenTrial, key: str) -> dict[str, float] | None:
    """The values that the trial itself reported with ``report_values``, or None.

    Raises:
        StoredDataError: If the attribute was not written by ``report_values``.
    """

    def parse(fields: Fields) -> dict[str, float]:
        values = fields.marked("values")
        for name in values:
            if isinstance(trial.distributions.get(name), CategoricalDistribution):
                raise ValueError(f"values: {name!r} is categorical")
        return values

    return read_report(trial, key, parse)


def read_gradient(trial: FrozenTrial) -> dict[str, float] | None:
    """The hypergradient that the trial itself reported, or None."""
    return read_values(trial, GRADIENT)


def read_constraint_gradients(trial: FrozenTrial) -> dict[str, dict[str, float]]:
    """The hypergradients of constraints that the trial itself reported, by constraint."""
    prefix = f"{CONSTRAINT_GRADIENT}:"
    keys = [key for key in (*trial.system_attrs, *trial.user_attrs) if key.startswith(prefix)]
    reported = {key.removeprefix(prefix): read_values(trial, key) for key in keys}
    return {name: values for name, values in reported.items() if values is not None}


def followed_gradient(trial: FrozenTrial) -> dict[str, float]:
    """The hypergradient that a trial is left along.

    The sum of those of the constraints that it violates, if it is not 0; else that of the loss.
    """
    report = Report(None, read_constraint_gradients(trial), read_constraints(trial))
    return report.restoring_gradient() or read_gradient(trial) or {}


def read_constraints(trial: FrozenTrial) -> dict[str, float]:
    """Constraint values of a trial by name; the trial is feasible where none exceeds 0.

    Like ``trial.constraints`` of Optuna 5, on Optuna 4 as well: those of ``Trial.set_constraint``
    under their names, those of a sampler's ``constraints_func`` under ``"0"``, ``"1"``, …

    Raises:
        StoredDataError: If an attribute was not written by Optuna.
    """
    attributes = trial.system_attrs
    keys = [key for key in attributes if key.startswith(CONSTRAINT_PREFIX)]
    if not keys and not attributes.get(CONSTRAINTS):
        return {}
    with reading(trial.number, CONSTRAINTS):
        values = {str(i): value for i, value in enumerate(attributes.get(CONSTRAINTS) or ())}
        values |= {key.removeprefix(CONSTRAINT_PREFIX): attributes[key] for key in keys}
        for name, value in values.items():
            if not isinstance(value, Real | np.bool_) or math.isnan(value):
                raise ValueError(f"{short(name)} must be a number, got {short(value)}")
        return {name: float(value) for name, value in values.items()}


def write_constraints(storage: BaseStorage, trial_id: int, values: Sequence[float]) -> None:
    """Store what a ``constraints_func`` returned for a running trial, as Optuna's samplers do.

    Arrays and booleans are accepted as by Optuna's samplers: True is violated.

    Raises:
        ValueError: If ``values`` is no sequence of numbers, or one is NaN.
    """
    what = "what constraints_func returns"
    values = values.tolist() if hasattr(values, "tolist") else values
    check_kind(what, values, Sequence, "a sequence of floats")
    numbers = [
        float(value)
        if isinstance(value, bool | np.bool_)
        else checked_number(what, value, "hold numbers, none of them NaN", _is_number)
        for value in values
    ]
    write_decision(storage, trial_id, CONSTRAINTS, numbers)


def _is_number(value: float) -> bool:
    return not math.isnan(value)


def total_violation(constraints: Mapping[str, float]) -> float:
    """Sum of the constraint values that exceed 0, by which Optuna compares infeasible trials.

    Example:
        >>> total_violation({"memory": 2.0, "latency": 0.5, "size": -1.0})
        2.5
    """
    return sum(value for value in constraints.values() if value > 0)


def report_shape(trial: BaseTrial, schedule: str, shape: Shape) -> None:
    """Report the shape of a schedule whose parameters the trial has suggested.

    To repeat it changes nothing; a ``FrozenTrial`` stores nothing.
    """
    known = read_report(trial, SCHEDULES, _schedules) or {}
    if not isinstance(trial, FrozenTrial) and known.get(schedule) != shape:
        schedules = {name: one._asdict() for name, one in {**known, schedule: shape}.items()}
        write_report(trial, SCHEDULES, {"trial": trial.number, "schedules": schedules})


def read_shapes(trial: BaseTrial) -> dict[str, Shape]:
    """The shapes of the schedules that the trial itself suggested, by name.

    Raises:
        StoredDataError: If the attribute was not written by ``report_shape``.
    """
    return read_report(trial, SCHEDULES, _schedules) or {}


def _schedules(fields: Fields) -> dict[str, Shape]:
    shapes = {name: Fields(stored) for name, stored in fields.mapping("schedules").items()}
    return {
        name: Shape(
            size=shape.int_("size", least=1, most=MOST_VALUES),
            form=shape.text("form"),
            is_shared=shape.choice("is_shared", (True, False)),
        )
        for name, shape in shapes.items()
    }


def report_tangent_norms(trial: BaseTrial, norms: Mapping[int, float]) -> None:
    """Report norms of the tangents ∂w/∂λ, by training step; the last report counts."""
    by_step = marked({str(step): norm for step, norm in norms.items()})
    write_report(trial, TANGENTS, {"trial": trial.number, "norms": by_step})


def read_tangent_norms(trial: FrozenTrial) -> dict[int, float]:
    """The norms that the trial itself reported, in the order of training steps.

    Raises:
        StoredDataError: If the attribute was not written by ``report_tangent_norms``.
    """

    def parse(fields: Fields) -> dict[int, float]:
        return {int(step): norm for step, norm in fields.marked("norms").items()}

    return dict(sorted((read_report(trial, TANGENTS, parse) or {}).items()))
