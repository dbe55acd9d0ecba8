"""What the mutation of a clone did to its hyperparameters, told from what is stored.

How a student became what it is: its ancestors, and the schedule of its hyperparameters.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

from optuna.study import Study

from optuna_hypergrad.reports import (
    Segment,
    check_descent,
    followed_gradient,
    read_gradient,
    read_refined,
)
from optuna_hypergrad.samplers.population.hyperparameters import (
    Numeric,
    ended_with,
    hyperparameters_after,
)
from optuna_hypergrad.samplers.population.population import Population, SegmentTrial
from optuna_hypergrad.samplers.ranking import violation
from optuna_hypergrad.samplers.studies import check_one_objective, maximizes

Origin = Literal["teacher", "perturbed", "resampled", "gradient"]


class MutationRecord(NamedTuple):
    """What became of one hyperparameter when its student was cloned."""

    origin: Origin
    """``"teacher"``: the teacher weighted it; ``"perturbed"``: it was multiplied by 0.8 or 1.2;
    ``"resampled"``: it was drawn anew; ``"gradient"``: it took one more step of descent."""
    before: float
    """What the parent handed on, as a fraction of the range, in log space where the range is
    logarithmic; NaN for a categorical parameter."""
    after: float
    """What the clone began with, as such a fraction."""
    has_step: bool = False
    """Whether the parent took a step along its hypergradient to what it handed on."""

    @property
    def factor(self) -> float:
        """The weight by which the fraction was multiplied; NaN where it was 0.

        The teacher's is 1 + tanh(…), as far as the range allowed it.
        """
        return self.after / self.before if self.before > 0 else math.nan


def mutations_of(segment: Segment, parent: SegmentTrial, refine: bool) -> dict[str, MutationRecord]:
    """What mutation did, by parameter; those that it left alone are not there.

    Args:
        segment: What a clone begins with.
        parent: The student that was cloned.
        refine: Whether students go on from refined values; see ``goes_on_refined``.
    """
    numeric = Numeric.of(parent.trial.distributions)
    handed = hyperparameters_after(parent, refine, segment.fixed).values
    fractions = zip(
        numeric.names,
        numeric.fractions(handed).tolist(),
        numeric.fractions({**handed, **segment.values}).tolist(),
        strict=True,
    )
    told: dict[str, MutationRecord] = {}
    followed = followed_gradient(parent.trial).keys()
    stepped = followed - read_refined(parent.trial).keys() - set(segment.fixed)
    for name, before, after in fractions:
        origin, was = _origin(segment, name), segment.queried.get(name, before)
        if was != after or origin in ("teacher", "resampled"):
            told[name] = MutationRecord(origin, was, after, refine and name in stepped)
    drawn = (name for name in segment.resampled if name not in told)
    return told | {name: MutationRecord("resampled", math.nan, math.nan) for name in drawn}


def goes_on_refined(family: Population) -> bool:
    """Whether students go on from refined values or along hypergradients.

    The first student that could tell does; True where none could.
    """
    for student in family:
        if student.segment.parent is None or student.is_clone:
            continue
        parent = family[student.segment.parent]
        if read_gradient(parent.trial) is None and not read_refined(parent.trial):
            continue
        fixed = student.segment.fixed
        left = hyperparameters_after(parent, refine=False, fixed=fixed).values
        if left != hyperparameters_after(parent, refine=True, fixed=fixed).values:
            return left != dict(student.segment.values)
    return True


def _origin(segment: Segment, name: str) -> Origin:
    if name in segment.resampled:
        return "resampled"
    if name in segment.queried:
        return "teacher"
    # Only those that descend keep their pace; other mutants are somewhere else.
    return "gradient" if name in segment.step_size else "perturbed"


class SegmentRecord(NamedTuple):
    """One segment in the lineage of a student."""

    trial: int
    member: int | None  # None for an explorer
    generation: int
    is_clone: bool  # whether it began as a mutated clone of the one before
    value: float | None  # None where it was pruned or failed
    params: dict[str, Any]  # what it began with
    ended: dict[str, Any]  # what it ended with: refined where it reported so
    parent: int | None = None  # number of the trial that it inherited from; None at a birth
    mutations: Mapping[
        str, MutationRecord
    ] = {}  # of a clone, by parameter, where it changed anything
    violation: float = 0.0  # total violation of its constraints; 0 where it is feasible


def lineage(study: Study, trial: int | None = None) -> list[SegmentRecord]:
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


def students(study: Study) -> list[SegmentRecord]:
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


def _family(study: Study) -> Population:
    check_one_objective(study)
    family = Population()
    family.read(study.get_trials(deepcopy=False))
    return family


def _descent(family: Population, number: int | None) -> Iterator[SegmentTrial]:
    """A student, its parent, and so on."""
    child: SegmentTrial | None = None
    while number is not None:
        student = family[number]
        if child is not None:
            check_descent(child.segment, student.segment)
        yield student
        child, number = student, student.segment.parent


def _best(family: Population, maximize: bool) -> int:
    complete = [student for student in family if student.complete]
    if not complete:
        raise ValueError("study: no student of a population has completed a segment.")
    return min(complete, key=lambda student: student.rank_key(maximize)).number


def _ancestor(student: SegmentTrial, family: Population, refine: bool) -> SegmentRecord:
    parent = None if student.segment.parent is None else family[student.segment.parent]
    if parent is not None:
        check_descent(student.segment, parent.segment)
    is_clone = parent is not None and student.is_clone
    return SegmentRecord(
        trial=student.number,
        member=student.segment.member,
        generation=student.generation,
        is_clone=is_clone,
        value=student.trial.value if student.complete else None,
        params=dict(student.trial.params),
        ended=ended_with(student),
        parent=student.segment.parent,
        violation=violation(student.trial),
        mutations=mutations_of(student.segment, parent, refine)
        if parent is not None and is_clone
        else {},
    )
