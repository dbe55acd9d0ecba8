"""The teacher of a population: what it is queried for, and what it learns from."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution

from optuna_hypergrad.algorithms import mutation
from optuna_hypergrad.algorithms.mutation import Activation
from optuna_hypergrad.algorithms.ranges import Array
from optuna_hypergrad.reports.objective import read_gradient
from optuna_hypergrad.reports.segments import Segment, Taught
from optuna_hypergrad.samplers.distributions import proposed
from optuna_hypergrad.samplers.population.hyperparameters import Numeric
from optuna_hypergrad.samplers.population.population import Population

Hypergradient = Callable[[dict[str, Any]], Mapping[str, float]]


def current_teacher(
    population: Population, number: int, seed: int, activation: Activation
) -> Taught:
    """The population's teacher, after it has learned from all trials before ``number``.

    It learns online: each segment whose values it mutated reports a hypergradient at those values.
    """
    taught = Taught(mutation.identity([], activation=activation), ())
    if population.teacher is not None:
        _, taught = population.teacher
    pending = [population[n] for n in sorted(taught.pending) if n in population]
    late = [one for one in pending if one.segment.queried]
    for student in (*late, *population.queried_since(taught.upto)):
        gradient = read_gradient(student.trial)
        if student.complete and gradient is not None:
            params, distributions = student.trial.params, student.trial.distributions
            taught = learned(taught, student.segment, params, gradient, distributions, seed)
    unfinished = {*population.running, *population.undecided}
    return taught._replace(upto=number, pending=tuple(n for n in sorted(unfinished) if n < number))


def learned(
    taught: Taught,
    segment: Segment,
    params: Mapping[str, Any],
    gradient: Mapping[str, float],
    distributions: Mapping[str, BaseDistribution],
    seed: int,
) -> Taught:
    """The teacher after one step from a hypergradient at the mutated values of a segment.

    Args:
        taught: The teacher before.
        segment: Holds the teacher's input, and which of its answers were proposed.
        params: What was used; nothing is learned from values that are not the teacher's.
        gradient: Hypergradient at these values, in natural units.
        distributions: Of the parameters.
        seed: The population's.
    """
    numeric = Numeric.of({n: distributions[n] for n in segment.queried if n in distributions})
    answered = set(numeric.names) - set(segment.resampled)
    answer = proposed(segment.values, {name: distributions[name] for name in answered})
    used = {n: gradient[n] for n in answered & gradient.keys() if params[n] == answer[n]}
    values = numeric.ranges.from_unit(numeric.fractions(params))
    outer = numeric.ranges.unit_gradient(values, numeric.array(used, missing=0.0))  # dL/du′
    taught = _extended(taught, numeric.names, seed)
    u = _ordered(taught, segment.queried)
    outer_by_row = _ordered(taught, numeric.by_name(outer))
    teacher = mutation.learn(taught.teacher, u, outer_by_row)  # HPM Eq. 10
    return taught._replace(teacher=teacher)


def taught_within(
    taught: Taught,
    segment: Segment,
    distributions: Mapping[str, BaseDistribution],
    hypergradient: Hypergradient,
    steps: int,
) -> tuple[Taught, Segment]:
    """Train the teacher on one student, then mutate the student with what it has learned.

    The procedure of the paper (HPM, Eq. 10): the student is frozen, and the teacher descends its
    validation loss from where the population has brought it; see ``MemberHandle.teach``.
    """
    for _ in range(steps):
        params = proposed(segment.values, distributions)
        gradient = hypergradient(params)
        taught = learned(taught, segment, params, gradient, distributions, segment.seed)
        answer = answer_of(taught, segment.queried, distributions)
        mutated = {name: v for name, v in answer.items() if name not in segment.resampled}
        segment = segment._replace(values={**segment.values, **mutated})
    return taught, segment


def answer_of(
    taught: Taught, queried: Mapping[str, float], distributions: Mapping[str, BaseDistribution]
) -> dict[str, float]:
    """Natural values that the teacher makes of fractions; unknown parameters keep theirs."""
    answer = mutation.mutate(taught.teacher, _ordered(taught, queried))  # HPM Eq. 9
    u = {**queried, **dict(zip(taught.names, answer.tolist(), strict=True))}
    numeric = Numeric.of({name: dist for name, dist in distributions.items() if name in queried})
    return numeric.values(numeric.array(u))


def _ordered(taught: Taught, by_name: Mapping[str, float]) -> Array:
    """Numbers by name in the order of the teacher's rows, 0 for those that are missing."""
    return np.array([by_name.get(name, 0.0) for name in taught.names], dtype=float)


def _extended(taught: Taught, names: tuple[str, ...], seed: int) -> Taught:
    """The teacher with rows for these parameters, too; those of new ones are the identity."""
    new = tuple(name for name in names if name not in taught.names)
    old = taught.teacher
    seeds = [[seed, zlib.crc32(name.encode())] for name in new]
    fresh = mutation.identity(seeds, old.activation, slots=old.keys.shape[1])
    teacher = old._replace(
        keys=np.concatenate([old.keys, fresh.keys]),
        values=np.concatenate([old.values, fresh.values]),
    )
    return taught._replace(teacher=teacher, names=taught.names + new)
