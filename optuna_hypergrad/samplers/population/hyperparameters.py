"""The hyperparameters of a student: those that can be refined and mutated as numbers."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
from optuna.distributions import BaseDistribution

from optuna_hypergrad.algorithms import refinement
from optuna_hypergrad.algorithms.ranges import Array, Ranges
from optuna_hypergrad.algorithms.refinement import Pace
from optuna_hypergrad.reports import followed_gradient, read_refined
from optuna_hypergrad.samplers.distributions import (
    internal_values,
    is_numeric,
    ranges_of,
    rounds_to,
)
from optuna_hypergrad.samplers.population.population import SegmentTrial


class Numeric(NamedTuple):
    """n numeric parameters of a trial, in alphabetical order."""

    names: tuple[str, ...]
    ranges: Ranges

    @classmethod
    def of(cls, distributions: Mapping[str, BaseDistribution]) -> Numeric:
        """Those of ``distributions`` that leave a choice."""
        names = sorted(n for n, d in distributions.items() if is_numeric(d) and not d.single())
        return cls(tuple(names), ranges_of([distributions[name] for name in names]))

    def fractions(self, values: Mapping[str, float]) -> Array:
        """u in [0, 1]ⁿ of natural values; those outside the range are moved to the bound."""
        natural = np.array([values[name] for name in self.names], dtype=float)
        return self.ranges.to_unit(np.clip(natural, self.ranges.low, self.ranges.high))

    def values(self, fractions: Array) -> dict[str, float]:
        """Natural values of u in [0, 1]ⁿ."""
        return dict(zip(self.names, self.ranges.from_unit(fractions).tolist(), strict=True))

    def array(self, by_name: Mapping[str, float], missing: float = math.nan) -> Array:
        """Something by name, in the order of the names, shape (n,)."""
        return np.array([by_name.get(name, missing) for name in self.names], dtype=float)


class SegmentHyperparameters(NamedTuple):
    """What a student hands on."""

    values: dict[str, float]  # all parameters, in Optuna's internal representation, not rounded
    pace: dict[str, tuple[float, float]]  # step size and sign of those with hypergradients


def hyperparameters_after(
    student: SegmentTrial, refine: bool, fixed: Collection[str]
) -> SegmentHyperparameters:
    """What a student hands on at the end of its segment.

    The values that it refined itself; for others with a hypergradient, one step of descent; for
    the rest, for ``fixed`` ones, and without ``refine``, what it ran with.
    """
    values = ran_with(student)
    if not refine:
        return SegmentHyperparameters(values, {})
    segment = student.segment
    stepped = rprop_step(student, values, segment.step_size, segment.sign, fixed)
    numeric = Numeric.of(student.trial.distributions)
    bounds = zip(numeric.names, numeric.ranges.low, numeric.ranges.high, strict=True)
    reported = read_refined(student.trial)
    refined = {name: value for name, value in reported.items() if math.isfinite(value)}
    own = {
        name: float(np.clip(refined[name], low, high))
        for name, low, high in bounds
        if name in refined and name not in fixed
    }
    return SegmentHyperparameters({**stepped.values, **own}, stepped.pace)


def rprop_step(
    student: SegmentTrial,
    values: Mapping[str, float],
    step_size: Mapping[str, float],
    sign: Mapping[str, float],
    fixed: Collection[str],
) -> SegmentHyperparameters:
    """One step from ``values`` along the hypergradient that the student reported, of its loss or
    of the constraints that it violates."""
    numeric = Numeric.of(student.trial.distributions)
    gradient = numeric.array(followed_gradient(student.trial))
    pace = Pace(
        numeric.array(step_size, missing=refinement.FIRST_STEP), numeric.array(sign, missing=0.0)
    )
    point, pace = refinement.descend(numeric.fractions(values), gradient, pace)
    pairs = zip(numeric.names, gradient, strict=True)
    felt = [name for name, g in pairs if math.isfinite(g) and name not in fixed]
    moved, steps = numeric.values(point), np.stack(pace, axis=1).tolist()
    paces = dict(zip(numeric.names, map(tuple, steps), strict=True))
    return SegmentHyperparameters(
        {**values, **{name: moved[name] for name in felt}}, {name: paces[name] for name in felt}
    )


def ran_with(student: SegmentTrial) -> dict[str, float]:
    """The values that a student ran with, in internal representation.

    Those of its segment where only rounding to an integer or a grid sets them apart: progress of
    less than a step must not be lost.
    """
    ran = internal_values(student.trial)
    for name in ran.keys() & student.segment.values.keys():
        decided, distribution = student.segment.values[name], student.trial.distributions[name]
        if rounds_to(decided, student.trial.params[name], distribution):
            ran[name] = decided
    return ran


def ended_with(student: SegmentTrial) -> dict[str, Any]:
    """Parameters at the end of a segment: refined by the student itself, else as it ran."""
    return {**student.trial.params, **read_refined(student.trial)}
