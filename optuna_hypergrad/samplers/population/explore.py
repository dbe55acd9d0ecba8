"""Explore: what a clone's hyperparameters become."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from optuna_hypergrad.algorithms import mutation
from optuna_hypergrad.algorithms.ranges import Array
from optuna_hypergrad.reports import Taught, followed_gradient, read_gradient, read_refined
from optuna_hypergrad.samplers.distributions import is_numeric, to_distribution
from optuna_hypergrad.samplers.population.config import PopulationConfig
from optuna_hypergrad.samplers.population.hyperparameters import (
    Numeric,
    SegmentHyperparameters,
    rprop_step,
)
from optuna_hypergrad.samplers.population.population import SegmentTrial
from optuna_hypergrad.samplers.population.teaching import asked


class Explored(NamedTuple):
    """The traits of a clone, and how it came by them; see the fields of ``Segment``."""

    traits: SegmentHyperparameters
    queried: dict[str, float]
    resampled: tuple[str, ...] = ()


def explore(
    parent: SegmentTrial,
    traits: SegmentHyperparameters,
    taught: Taught | None,
    breeding: PopulationConfig,
    rng: np.random.Generator,
) -> Explored:
    """Mutate what a parent hands on to its clone.

    Args:
        parent: The student that is cloned.
        traits: What it hands on.
        taught: The teacher, where there is one.
        breeding: How to mutate.
        rng: Random numbers of the trial's own.
    """
    if breeding.mutation is None:
        return Explored(traits, {})
    if breeding.mutation == "hypergradient":
        step_size = {name: pace[0] for name, pace in traits.pace.items()}
        sign = {name: pace[1] for name, pace in traits.pace.items()}
        return Explored(rprop_step(parent, traits.values, step_size, sign, breeding.fixed), {})
    values, queried, free = traits.values, {}, _free(parent, breeding)
    if breeding.mutation != "resample":
        values = _perturbed(free, values, rng)
    if taught is not None:
        queried = _queried(parent, free, traits)
        values |= asked(taught, queried, free)
    drawn = _resampled(free, breeding.resample_probability, rng)
    # A mutant is somewhere else: its steps are long again.
    return Explored(SegmentHyperparameters({**values, **drawn}, {}), queried, tuple(drawn))


def _free(parent: SegmentTrial, breeding: PopulationConfig) -> dict[str, BaseDistribution]:
    """The parameters that mutation may change.

    A checkpoint may depend on an integer or a category, unless these change in training as well.
    """
    followed = {*(read_gradient(parent.trial) or {}), *followed_gradient(parent.trial)}
    named = {*breeding.mutable, *followed, *read_refined(parent.trial)}
    return {
        name: distribution
        for name, distribution in parent.trial.distributions.items()
        if (isinstance(distribution, FloatDistribution) or name in named)
        and name not in breeding.fixed
        and not distribution.single()
    }


def _queried(
    parent: SegmentTrial, free: Mapping[str, BaseDistribution], traits: SegmentHyperparameters
) -> dict[str, float]:
    """Where the teacher is asked, in fractions: the parameters with hypergradients."""
    numeric = Numeric.of(free)
    gradient = read_gradient(parent.trial) or {}
    fractions = zip(numeric.names, numeric.fractions(traits.values).tolist(), strict=True)
    return {name: fraction for name, fraction in fractions if name in gradient}


def _perturbed(
    free: Mapping[str, BaseDistribution], values: Mapping[str, float], rng: np.random.Generator
) -> dict[str, float]:
    """Numbers times 0.8 or 1.2; those on a grid move by a step of it at least."""
    numeric = Numeric.of(free)
    before = numeric.fractions(values)
    moved = numeric.values(mutation.perturb(before, rng))
    for name, value in moved.items():
        moved[name] = _next_grid_point(values[name], value, free[name])
    return {**values, **moved}


def _next_grid_point(before: float, after: float, distribution: Any) -> float:
    """``after``, or the next point of the grid where it would be rounded back to ``before``."""
    step = distribution.step
    points = [to_distribution(value, distribution) for value in (before, after)]
    if step is None or points[0] != points[1]:
        return after
    outwards = before + step if after >= before else before - step
    return float(min(max(outwards, distribution.low), distribution.high))


def _resampled(
    free: Mapping[str, BaseDistribution], probability: float, rng: np.random.Generator
) -> dict[str, float]:
    """Some parameters, drawn anew from the prior: uniformly, in log space for log ranges."""
    chosen = [name for name in sorted(free) if rng.random() < probability]
    return {name: _draw(free[name], rng) for name in chosen}


def _draw(distribution: BaseDistribution, rng: np.random.Generator) -> float:
    if isinstance(distribution, CategoricalDistribution):
        return float(rng.integers(len(distribution.choices)))
    assert is_numeric(distribution)
    numeric = Numeric.of({"": distribution})
    fraction: Array = rng.random(1)
    return numeric.values(fraction)[""]
