"""How a student became what it is: its ancestors, and the schedule of its hyperparameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from optuna.study import Study

from optuna_hypergrad.reports import check_descent
from optuna_hypergrad.samplers.constraints import violation
from optuna_hypergrad.samplers.family import Family, Student
from optuna_hypergrad.samplers.mutated import Mutated, goes_on_refined, mutated
from optuna_hypergrad.samplers.studies import check_one_objective, maximizes
from optuna_hypergrad.samplers.traits import ended_with


class Ancestor(NamedTuple):
    """One segment in the lineage of a student."""

    trial: int
    member: int | None  # None for an explorer
    generation: int
    is_clone: bool  # whether it began as a mutated clone of the one before
    value: float | None  # None where it was pruned or failed
    params: dict[str, Any]  # what it began with
    ended: dict[str, Any]  # what it ended with: refined where it reported so
    parent: int | None = None  # number of the trial that it inherited from; None at a birth
    mutations: Mapping[str, Mutated] = {}  # of a clone, by parameter, where it changed anything
    violation: float = 0.0  # total violation of its constraints; 0 where it is feasible


def lineage(study: Study, trial: int | None = None) -> list[Ancestor]:
    """The lineage of a student of a ``PopulationSampler``, from its birth on.

    It is the schedule of hyperparameters that led to the student: training anew with what each
    segment began and ended with repeats it.

    Args:
        study: The study.
        trial: Number of the finished trial to explain; by default that of the best student.

    Raises:
        ValueError: If no such trial is a finished segment of a student.
        StoredDataError: If the storage holds something else than what was written there.

    Example:
        >>> import optuna
        >>> from optuna_hypergrad import PopulationSampler, lineage
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> study = optuna.create_study(sampler=PopulationSampler(seed=0, population_size=3))
        >>> study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=9)
        >>> [ancestor.trial for ancestor in lineage(study, 8)]
        [2, 5, 8]
    """
    family = _family(study)
    number: int | None = trial
    if trial is None:
        number = _best(family, maximizes(study))
    elif trial not in family:
        raise ValueError(f"trial: {trial} is not a finished segment of a student in this study.")
    refine = goes_on_refined(family)
    return [_ancestor(student, family, refine) for student in _descent(family, number)][::-1]


def students(study: Study) -> list[Ancestor]:
    """All students of a ``PopulationSampler``, in each segment that has finished, by trial number.

    Args:
        study: The study; one without such trials has no students.

    Raises:
        ValueError: If ``study`` is not one, or has several objectives.
        StoredDataError: If the storage holds something else than what was written there.

    Example:
        >>> import optuna
        >>> from optuna_hypergrad import PopulationSampler, students
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> study = optuna.create_study(sampler=PopulationSampler(seed=0, population_size=3))
        >>> study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=60)
        >>> clone = next(student for student in students(study) if student.is_clone)
        >>> clone.trial, clone.member, clone.parent, clone.mutations["x"].origin
        (10, 1, 8, 'perturbed')
        >>> round(clone.mutations["x"].factor, 3)
        0.8
    """
    family = _family(study)
    refine = goes_on_refined(family)
    by_number = sorted(family, key=lambda student: student.number)
    return [_ancestor(student, family, refine) for student in by_number]


def _family(study: Study) -> Family:
    check_one_objective(study)
    family = Family()
    family.read(study.get_trials(deepcopy=False))
    return family


def _descent(family: Family, number: int | None) -> Iterator[Student]:
    """A student, its parent, and so on."""
    child: Student | None = None
    while number is not None:
        student = family[number]
        if child is not None:
            check_descent(child.segment, student.segment)
        yield student
        child, number = student, student.segment.parent


def _best(family: Family, maximize: bool) -> int:
    complete = [student for student in family if student.complete]
    if not complete:
        raise ValueError("study: no student of a population has completed a segment.")
    return min(complete, key=lambda student: student.rank_key(maximize)).number


def _ancestor(student: Student, family: Family, refine: bool) -> Ancestor:
    parent = None if student.segment.parent is None else family[student.segment.parent]
    if parent is not None:
        check_descent(student.segment, parent.segment)
    is_clone = parent is not None and student.is_clone
    return Ancestor(
        trial=student.number,
        member=student.segment.member,
        generation=student.generation,
        is_clone=is_clone,
        value=student.trial.value if student.complete else None,
        params=dict(student.trial.params),
        ended=ended_with(student),
        parent=student.segment.parent,
        violation=violation(student.trial),
        mutations=mutated(student.segment, parent, refine)
        if parent is not None and is_clone
        else {},
    )
