"""Explore: mutation of a clone's hyperparameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from optuna_hypergrad.algorithms import mutation, quadratic
from optuna_hypergrad.algorithms.ranges import Array
from optuna_hypergrad.reports.objective import followed_gradient, read_gradient
from optuna_hypergrad.reports.segments import Origin, Segment, Taught, read_refined
from optuna_hypergrad.samplers.distributions import to_distribution
from optuna_hypergrad.samplers.population.config import PopulationConfig
from optuna_hypergrad.samplers.population.hyperparameters import Numeric, rprop_step
from optuna_hypergrad.samplers.population.population import SegmentTrial
from optuna_hypergrad.samplers.population.teaching import answer_of


def explore(
    segment: Segment,
    parent: SegmentTrial,
    taught: Taught | None,
    config: PopulationConfig,
    rng: np.random.Generator,
    lowest: Callable[[Numeric], Array | None],
) -> Segment:
    """A clone's segment with mutated values, and what mutated each.

    Args:
        segment: The segment before mutation: it continues its parent.
        parent: The segment that is cloned.
        taught: The teacher, where it mutates.
        config: The arguments of the sampler.
        rng: The trial's own random numbers.
        lowest: Where the surrogate model of some parameters is lowest, where it mutates.
    """
    if config.mutation is None:
        return segment
    space = _mutable(parent, config)
    numeric = Numeric.of(space)
    u = numeric.fractions(segment.values)
    before = numeric.by_name(u)
    origins: dict[str, Origin] = {}
    if config.mutation == "hypergradient":
        clone = rprop_step(segment, parent)
        origins |= dict.fromkeys(numeric.names, "gradient")
    else:
        values, queried = dict(segment.values), dict[str, float]()
        if config.mutation in ("teacher", "perturb"):
            values |= _perturbed(numeric, values, space, rng)
            origins |= dict.fromkeys(numeric.names, "perturbed")
        if taught is not None:
            reported = read_gradient(parent.trial) or {}
            queried = {name: fraction for name, fraction in before.items() if name in reported}
            values |= answer_of(taught, queried, space)
            origins |= dict.fromkeys(queried, "teacher")
        if config.mutation == "surrogate":  # descent searches near the others
            rest = Numeric.of({n: d for n, d in space.items() if n not in segment.refinement})
            values |= _perturbed(rest, values, space, rng)
            origins |= dict.fromkeys(rest.names, "perturbed")
        if config.mutation == "surrogate" and (target := lowest(numeric)) is not None:
            point, is_moved = quadratic.moved(u, target, rng)
            near = numeric.by_name(numeric.ranges.from_unit(point))
            changed = [n for n, moves in zip(numeric.names, is_moved, strict=True) if moves]
            values |= {name: near[name] for name in changed}
            origins |= dict.fromkeys(changed, "surrogate")
        drawn = _resampled(space, config.resample_probability, rng)
        origins |= dict.fromkeys(drawn, "resampled")
        # A mutated clone is somewhere else, so its step sizes start again.
        clone = segment._replace(values={**values, **drawn}, step_size={}, sign={})
        clone = clone._replace(queried=queried, resampled=tuple(drawn))
    for name, after in numeric.by_name(numeric.fractions(clone.values)).items():
        if after == before[name] and origins.get(name) in ("perturbed", "gradient"):
            del origins[name]  # it stays at a bound, or its hypergradient is 0
    others = origins.keys() - clone.queried.keys()
    before = {name: fraction for name, fraction in before.items() if name in others}
    return clone._replace(mutation=origins, before=before)


def _mutable(parent: SegmentTrial, config: PopulationConfig) -> dict[str, BaseDistribution]:
    """The parameters that mutation may change.

    A checkpoint may depend on an integer or a category, unless these change in training as well.
    """
    trial = parent.trial
    learned = {
        *(read_gradient(trial) or {}),
        *followed_gradient(trial),
        *read_refined(trial),
    }
    return {
        name: distribution
        for name, distribution in trial.distributions.items()
        if (isinstance(distribution, FloatDistribution) or name in {*config.mutable, *learned})
        and name not in config.fixed
        and not distribution.single()
    }


def _perturbed(
    numeric: Numeric,
    before: Mapping[str, float],
    space: Mapping[str, Any],
    rng: np.random.Generator,
) -> dict[str, float]:
    """Numbers times 0.8 or 1.2, as fractions; those on a grid move by at least one step of it."""
    values = numeric.values(mutation.perturb(numeric.fractions(before), rng))
    for name, after in values.items():
        step, low, high = space[name].step, space[name].low, space[name].high
        points = [to_distribution(value, space[name]) for value in (before[name], after)]
        if step is not None and points[0] == points[1]:
            away = before[name] + step if after >= before[name] else before[name] - step
            values[name] = float(min(max(away, low), high))
    return values


def _resampled(
    space: Mapping[str, BaseDistribution], probability: float, rng: np.random.Generator
) -> dict[str, float]:
    """Some parameters, drawn again from the prior: uniformly, in log space for log ranges."""
    chosen = [name for name in sorted(space) if rng.random() < probability]
    drawn: dict[str, float] = {}
    for name in chosen:
        distribution = space[name]
        if isinstance(distribution, CategoricalDistribution):
            drawn[name] = float(rng.integers(len(distribution.choices)))
        else:
            drawn |= Numeric.of({name: distribution}).values(rng.random(1))
    return drawn
