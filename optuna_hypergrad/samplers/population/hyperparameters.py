"""The hyperparameters of a segment: what its parent ended with, descent, a warm start."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.study import Study

from optuna_hypergrad.algorithms import refinement
from optuna_hypergrad.algorithms.ranges import Array, Ranges
from optuna_hypergrad.reports.objective import followed_gradient
from optuna_hypergrad.reports.segments import Refinement, Segment, read_refined, read_segment
from optuna_hypergrad.samplers.distributions import (
    internal_values,
    is_numeric,
    ranges_of,
    rounds_to,
)
from optuna_hypergrad.samplers.population.population import SegmentTrial
from optuna_hypergrad.samplers.studies import best_first, maximizes


class Numeric(NamedTuple):
    """n numeric parameters of a trial, in alphabetical order."""

    names: tuple[str, ...]
    ranges: Ranges

    @classmethod
    def of(cls, distributions: Mapping[str, BaseDistribution]) -> Numeric:
        """Those of ``distributions`` that leave a choice."""
        names = sorted(n for n, d in distributions.items() if is_numeric(d) and not d.single())
        return cls(tuple(names), ranges_of([distributions[name] for name in names]))

    def fractions(self, *points: Mapping[str, float]) -> Array:
        """u in [0, 1]ⁿ of natural values; those outside the range are moved to the bound.

        Of one point, shape (n,), or of m points, shape (m, n).
        """
        rows = [[values[name] for name in self.names] for values in points]
        natural = np.array(rows[0] if len(rows) == 1 else rows, dtype=float)
        return self.ranges.to_unit(np.clip(natural, self.ranges.low, self.ranges.high))

    def values(self, fractions: Array) -> dict[str, float]:
        """Natural values of u in [0, 1]ⁿ."""
        return self.by_name(self.ranges.from_unit(fractions))

    def by_name(self, array: Array) -> dict[str, float]:
        """The entries of an array of shape (n,)."""
        return dict(zip(self.names, array.tolist(), strict=True))

    def array(self, by_name: Mapping[str, float], missing: float = math.nan) -> Array:
        """Numbers by name as an array of shape (n,)."""
        return np.array([by_name.get(name, missing) for name in self.names], dtype=float)


def continued(segment: Segment, parent: SegmentTrial, refine: bool) -> Segment:
    """A segment with the values that its parent ended with, step sizes and signs.

    The values that the parent refined itself; for others with a hypergradient, one step of
    descent; for the rest, for ``fixed`` ones, and without ``refine``, what it ran with.
    """
    segment = segment._replace(values=_ran_with(parent))
    if not refine:
        return segment
    step_size, sign = parent.segment.step_size, parent.segment.sign
    stepped = rprop_step(segment._replace(step_size=step_size, sign=sign), parent)
    refined: dict[str, float] = {}
    for name, value in read_refined(parent.trial).items():
        space = parent.trial.distributions.get(name)
        if not isinstance(space, FloatDistribution | IntDistribution) or space.single():
            continue
        if math.isfinite(value) and name not in segment.fixed:
            refined[name] = float(min(max(value, space.low), space.high))
    changes: dict[str, Refinement] = {
        **dict.fromkeys(stepped.sign, "step"),
        **dict.fromkeys(refined, "refined"),
    }
    return stepped._replace(values={**stepped.values, **refined}, refinement=changes)


def rprop_step(segment: Segment, parent: SegmentTrial) -> Segment:
    """A segment after one step along the hypergradient that its parent reported.

    Of the parent's loss, or of the constraints that it violates.
    """
    numeric = Numeric.of(parent.trial.distributions)
    gradient = numeric.array(followed_gradient(parent.trial))
    pace = refinement.RpropState(
        numeric.array(segment.step_size, missing=refinement.FIRST_STEP),
        numeric.array(segment.sign, missing=0.0),
    )
    u, pace = refinement.descend(numeric.fractions(segment.values), gradient, pace)
    values, step_size, sign = map(numeric.by_name, (numeric.ranges.from_unit(u), *pace))
    known = numeric.by_name(np.isfinite(gradient))
    moved = [name for name, is_known in known.items() if is_known and name not in segment.fixed]
    return segment._replace(
        values={**segment.values, **{name: values[name] for name in moved}},
        step_size={name: step_size[name] for name in moved},
        sign={name: sign[name] for name in moved},
    )


def _ran_with(parent: SegmentTrial) -> dict[str, float]:
    """The values that a segment ran with, in internal representation.

    Its unrounded values where only rounding to an integer or a grid changed them: progress of less
    than a step must not be lost.
    """
    ran = internal_values(parent.trial)
    for name in ran.keys() & parent.segment.values.keys():
        value, distribution = parent.segment.values[name], parent.trial.distributions[name]
        if rounds_to(value, parent.trial.params[name], distribution):
            ran[name] = value
    return ran


def warm_start_values(study: Study, segment: Segment, failures: int) -> dict[str, float]:
    """Values of member i's first segment: those of the i-th best trial of other samplers.

    After each failure of that segment, those of a trial that no other member starts at. Empty
    where there are too few trials.
    """
    if segment.member is None:
        return {}
    trials = study._get_trials(deepcopy=False, use_cache=False)
    others = [t for t in trials if read_segment(t.number, t.system_attrs) is None]
    ranked = best_first(others, maximizes(study))
    rank = segment.member + failures * segment.population
    return internal_values(ranked[rank]) if rank < len(ranked) else {}
