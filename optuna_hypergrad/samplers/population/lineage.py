"""The segments of a population: their descent, values, and the mutation of clones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from optuna.distributions import BaseDistribution
from optuna.study import Study

from optuna_hypergrad.reports.segments import Origin, Segment, check_descent
from optuna_hypergrad.samplers.population.hyperparameters import Numeric
from optuna_hypergrad.samplers.population.population import Population, SegmentTrial
from optuna_hypergrad.samplers.studies import check_one_objective, maximizes, violation


class MutationRecord(NamedTuple):
    """How one hyperparameter of a clone was mutated."""

    origin: Origin
    """``"surrogate"``: drawn near the minimum of the model of losses; ``"teacher"``: weighted by
    the teacher; ``"perturbed"``: multiplied by 0.8 or 1.2; ``"resampled"``: drawn again;
    ``"gradient"``: one more step along the hypergradient."""
    before: float
    """The value before the mutation, as a fraction of the range, in log space where the range is
    logarithmic; NaN for a categorical parameter, or where an older version did not store it."""
    after: float
    """The value that the clone starts with, as such a fraction."""
    has_step: bool = False
    """Whether ``before`` is the parent's value after a step along its hypergradient; False where an
    older version did not store it."""

    @property
    def factor(self) -> float:
        """The weight by which the fraction was multiplied; NaN where it was 0.

        The teacher's is 1 + tanh(…), as far as the range allowed it.
        """
        return self.after / self.before if self.before > 0 else math.nan


def mutations_of(
    segment: Segment, distributions: Mapping[str, BaseDistribution]
) -> dict[str, MutationRecord]:
    """How the hyperparameters of a clone were mutated; ``distributions`` are its parent's."""
    names = segment.mutation.keys() & segment.values.keys()
    numeric = Numeric.of({name: d for name, d in distributions.items() if name in names})
    after = numeric.by_name(numeric.fractions(segment.values))
    before = {**segment.before, **segment.queried}
    return {
        name: MutationRecord(
            origin,
            before.get(name, math.nan),
            after.get(name, math.nan),
            segment.refinement.get(name) == "step",
        )
        for name, origin in segment.mutation.items()
    }


class SegmentRecord(NamedTuple):
    """One finished segment of a population."""

    trial: int
    member: int | None  # None for an explorer
    generation: int
    is_clone: bool  # whether it started as a mutated clone of its parent
    value: float | None  # None where it was pruned or failed
    params: dict[str, Any]  # what it started with
    ended: dict[str, Any]  # what it ended with: refined where it reported so
    parent: int | None = None  # the trial that it continues or clones; None at the start
    mutations: Mapping[str, MutationRecord] = {}  # of a clone, by parameter, where it changed
    violation: float = 0.0  # total violation of its constraints; 0 where it is feasible


def lineage(study: Study, trial: int | None = None) -> list[SegmentRecord]:
    """The segments of a ``PopulationSampler`` that led to one of them, from the first on.

    Training once with the hyperparameters of each in turn repeats it; see ``lineage_schedules``.

    Args:
        study: The study.
        trial: Number of the finished trial to explain; by default the best segment.

    Raises:
        ValueError: If no such trial is a finished segment.
        StoredDataError: If the storage holds something else than what was written there.

    Example:
        >>> import optuna
        >>> from optuna_hypergrad import PopulationSampler, lineage
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> study = optuna.create_study(sampler=PopulationSampler(seed=0, population_size=3))
        >>> study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=9)
        >>> [segment.trial for segment in lineage(study, 8)]
        [2, 5, 8]
    """
    population = _population_of(study)
    if trial is None:
        complete = (one for one in population if one.complete)
        best = min(complete, key=lambda one: one.rank_key, default=None)
        if best is None:
            raise ValueError("study: no segment of a population has been completed.")
        trial = best.number
    elif trial not in population:
        raise ValueError(f"trial: {trial} is not a finished segment of a population.")
    path: list[SegmentRecord] = []
    number: int | None = trial
    while number is not None:
        path.append(_record(population[number], population))
        number = path[-1].parent
    return path[::-1]


def students(study: Study) -> list[SegmentRecord]:
    """All finished segments of a ``PopulationSampler``, by trial number.

    Args:
        study: The study; empty for one without such trials.

    Raises:
        ValueError: If ``study`` is not one, or has several objectives.
        StoredDataError: If the storage holds something else than what was written there.

    Example:
        >>> import optuna
        >>> from optuna_hypergrad import PopulationSampler, students
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> sampler = PopulationSampler(seed=0, population_size=3, mutation="perturb")
        >>> study = optuna.create_study(sampler=sampler)
        >>> study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=60)
        >>> clone = next(segment for segment in students(study) if segment.is_clone)
        >>> clone.trial, clone.member, clone.parent, clone.mutations["x"].origin
        (10, 1, 8, 'perturbed')
        >>> round(clone.mutations["x"].factor, 3)
        0.8
    """
    population = _population_of(study)
    by_number = sorted(population, key=lambda one: one.number)
    return [_record(one, population) for one in by_number]


def _population_of(study: Study) -> Population:
    check_one_objective(study)
    population = Population(maximizes(study))
    population.read(study.get_trials(deepcopy=False))
    return population


def _record(one: SegmentTrial, population: Population) -> SegmentRecord:
    segment = one.segment
    mutations: Mapping[str, MutationRecord] = {}
    if segment.parent is not None:
        parent = population[segment.parent]
        check_descent(segment, parent.segment)
        if one.is_clone:
            mutations = mutations_of(segment, parent.trial.distributions)
    return SegmentRecord(
        trial=one.number,
        member=segment.member,
        generation=segment.generation,
        is_clone=one.is_clone,
        value=one.trial.value if one.complete else None,
        params=dict(one.trial.params),
        ended=one.ended_with,
        parent=segment.parent,
        mutations=mutations,
        violation=violation(one.trial),
    )
