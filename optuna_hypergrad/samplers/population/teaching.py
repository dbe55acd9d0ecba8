"""The teacher of a population: whom it learns from, and what it says about named parameters."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution

from optuna_hypergrad.algorithms import mutation
from optuna_hypergrad.algorithms.mutation import Activation, Teacher
from optuna_hypergrad.reports import Segment, Taught, read_gradient
from optuna_hypergrad.samplers.distributions import proposed
from optuna_hypergrad.samplers.population.hyperparameters import Numeric
from optuna_hypergrad.samplers.population.population import Population

Hypergradient = Callable[[dict[str, Any]], Mapping[str, float]]


def brought_up_to_date(
    family: Population, number: int, seed: int, activation: Activation
) -> Taught:
    """The population's teacher after all reports that it has not learned from yet.

    It learns online: each student whose values it mutated reports a hypergradient at those values.

    Args:
        family: The population.
        number: The trial that asks; it learns from those before.
        seed: The population's.
        activation: Of a new teacher.
    """
    empty = Taught(mutation.identity([], activation=activation), ())
    taught = empty if family.taught is None else family.taught
    late = [family[n] for n in sorted(taught.pending) if n in family and family[n].segment.queried]
    for student in (*late, *family.mutants_since(taught.upto)):
        trial = student.trial
        gradient = read_gradient(trial)
        if student.complete and gradient is not None:
            taught = learned(
                taught, student.segment, trial.params, gradient, trial.distributions, seed
            )
    unfinished = {*(student.number for student in family.running), *family.undecided}
    pending = tuple(n for n in sorted(unfinished) if n < number)
    return taught._replace(upto=number, pending=pending)


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
        segment: Says what the teacher was asked, and what of its answer was proposed.
        params: What was used; it learns nothing about values that are not its own.
        gradient: Hypergradient at these values, in natural units.
        distributions: Of the parameters.
        seed: The population's.
    """
    numeric = Numeric.of({n: distributions[n] for n in segment.queried if n in distributions})
    answers = set(numeric.names) - set(segment.resampled)
    said = proposed(segment.values, {name: distributions[name] for name in answers})
    heard = {n: gradient[n] for n in answers & gradient.keys() if params[n] == said[n]}
    values = numeric.ranges.from_unit(numeric.fractions(params))
    outer = numeric.ranges.unit_gradient(values, numeric.array(heard, missing=0.0))
    taught = _extended(taught, numeric.names, seed)
    point = _ordered(taught, segment.queried)
    by_name = dict(zip(numeric.names, outer.tolist(), strict=True))
    teacher = mutation.learn(taught.teacher, point, _ordered(taught, by_name))
    return taught._replace(teacher=teacher)


def taught_within(
    taught: Taught,
    segment: Segment,
    distributions: Mapping[str, BaseDistribution],
    hypergradient: Hypergradient,
    steps: int,
) -> tuple[Taught, Segment]:
    """Train the teacher on one student, and mutate with what it has learned then.

    The paper's own procedure: the student is frozen, and the teacher descends its validation loss
    from where the population has brought it.

    Args:
        taught: The teacher that the segment was mutated by.
        segment: The segment, which asked the teacher.
        distributions: Of the parent's parameters.
        hypergradient: Given values by parameter, the hypergradient there.
        steps: How many steps the teacher takes.
    """
    for _ in range(steps):
        params = proposed(segment.values, distributions)
        gradient = hypergradient(params)
        taught = learned(taught, segment, params, gradient, distributions, segment.seed)
        answer = asked(taught, segment.queried, distributions)
        mutated = {name: v for name, v in answer.items() if name not in segment.resampled}
        segment = segment._replace(values={**segment.values, **mutated})
    return taught, segment


def asked(
    taught: Taught, queried: Mapping[str, float], distributions: Mapping[str, BaseDistribution]
) -> dict[str, float]:
    """Natural values of what the teacher makes of fractions; parameters it does not know stay."""
    answer = mutation.mutated(taught.teacher, _ordered(taught, queried))
    point = dict(zip(taught.names, answer.tolist(), strict=True))
    numeric = Numeric.of({name: dist for name, dist in distributions.items() if name in queried})
    return numeric.values(numeric.array({**queried, **point}))


def _ordered(taught: Taught, by_name: Mapping[str, float]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Something by name in the order of the teacher's rows, 0 where there is nothing."""
    return np.array([by_name.get(name, 0.0) for name in taught.names], dtype=float)


def _extended(taught: Taught, names: tuple[str, ...], seed: int) -> Taught:
    """A teacher that knows these names, too; the identity for those that are new."""
    new = tuple(name for name in names if name not in taught.names)
    if not new:
        return taught
    old = taught.teacher
    fresh = mutation.identity([[seed, zlib.crc32(name.encode())] for name in new], old.activation)
    teacher: Teacher = old._replace(
        keys=np.concatenate([old.keys, fresh.keys]),
        values=np.concatenate([old.values, fresh.values]),
    )
    return taught._replace(teacher=teacher, names=taught.names + new)
