"""TruncationPruner: ends segments of students that are about to be replaced."""

from __future__ import annotations

import math

from optuna.pruners import BasePruner
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from optuna_hypergrad.algorithms import selection
from optuna_hypergrad.arguments import checked_count
from optuna_hypergrad.reports import Segment, read_segment
from optuna_hypergrad.samplers.population.config import PopulationConfig
from optuna_hypergrad.samplers.population.population import Population, SegmentTrial
from optuna_hypergrad.samplers.population.sampler import PopulationSampler
from optuna_hypergrad.samplers.studies import maximizes, sampler_of


class TruncationPruner(BasePruner):
    """Prune a segment whose student would be replaced at its end, so that its worker is free.

    That is, one whose best report so far is among the worst of its population up to the same step
    of the segment: of as many as ``PopulationSampler`` truncates, those already pruned included. A
    peer that has not come that far in this generation counts with what it had reported by that
    step in the last one, and one of which nothing is known as worse. The pruned student is
    replaced by a clone, as a truncated one is.

    The fraction, ``burn_in`` and the size of the population are those of the study's sampler.
    Nothing is pruned that would not be truncated: students younger than ``burn_in``, explorers,
    and whatever a ``PopulationSampler`` with ``truncation=0`` or ``selection="tournament"``, or
    another sampler, proposed. A report that is not finite ends the segment of any student, which
    would be lost, too.

    What is judged is what the objective reports with ``trial.report``: what it will return, as of
    now, in the study's direction, at the same steps in each segment, counted from its beginning.
    Constraints, which are known at the end of a segment, are not.

    Args:
        n_warmup_steps: Number of steps of a segment before which nothing is pruned.

    Raises:
        ValueError: If ``n_warmup_steps`` is negative or no integer.

    Example:
        >>> import optuna
        >>> from optuna_hypergrad import PopulationSampler, TruncationPruner
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> def objective(trial):
        ...     x = trial.suggest_float("x", -1, 1)
        ...     for step in range(5):
        ...         trial.report((x - 0.3) ** 2 + 1 / (1 + step), step)
        ...         if trial.should_prune():
        ...             raise optuna.TrialPruned
        ...     return (x - 0.3) ** 2
        >>> sampler = PopulationSampler(seed=0, population_size=5)
        >>> study = optuna.create_study(sampler=sampler, pruner=TruncationPruner())
        >>> study.optimize(objective, n_trials=25)
        >>> [trial.number for trial in study.trials if trial.state.name == "PRUNED"]
        [11]
    """

    def __init__(self, *, n_warmup_steps: int = 0) -> None:
        self._n_warmup_steps = checked_count("n_warmup_steps", n_warmup_steps, least=0)

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether the trial's student is about to be replaced; False before its first report."""
        step, sampler = trial.last_step, sampler_of(study, PopulationSampler)
        segment = read_segment(trial.number, trial.system_attrs)
        if step is None or step < self._n_warmup_steps or sampler is None or segment is None:
            return False
        if not math.isfinite(trial.intermediate_values[step]):
            return True
        if not _may_be_truncated(segment, sampler.breeding):
            return False
        with sampler.memory.reading(study) as family:
            return _is_among_worst(trial, segment, family, sampler.breeding, maximizes(study))


def _may_be_truncated(segment: Segment, breeding: PopulationConfig) -> bool:
    is_explorer = segment.member is None
    return (
        breeding.selection == "truncation" and not is_explorer and segment.age >= breeding.burn_in
    )


def _is_among_worst(
    trial: FrozenTrial, own: Segment, family: Population, breeding: PopulationConfig, maximize: bool
) -> bool:
    """Whether as many others as truncation spares had less loss at the trial's last step."""
    if any(student.done for student in family.attempts(own.member, own.generation)):
        return False  # another has filled its place: it counts as an explorer
    step = max(trial.intermediate_values)
    others = _losses_of_others(family, own, breeding.population_size, step, maximize)
    # Its own loss comes first, and so before those that are as good.
    return 0 in selection.worst([_loss(trial, step, maximize), *others], breeding.truncation)


def _losses_of_others(
    family: Population, own: Segment, size: int, step: int, maximize: bool
) -> list[float]:
    """What the students that it will be compared with had at a step.

    Of each other place whoever has come furthest, up to this generation, and its explorers.
    """
    finished = family.at_age(own.generation, size)
    reached = [s for s in family.running if step in s.trial.intermediate_values]
    explorers: list[SegmentTrial] = []
    places: dict[int, SegmentTrial] = {}
    for student in sorted((*finished, *reached), key=lambda s: (s.generation, -s.number)):
        if student.segment.member is not None and student.generation <= own.generation:
            places[student.segment.member] = student
        elif student.generation == own.generation:
            explorers.append(student)
    others = [places.get(member) for member in range(size) if member != own.member]
    return [_loss(None if s is None else s.trial, step, maximize) for s in (*others, *explorers)]


def _loss(trial: FrozenTrial | None, step: int, maximize: bool) -> float:
    """The best up to a step, to be minimised; infinite if it did not come so far or was pruned."""
    if trial is None or trial.state == TrialState.PRUNED or step not in trial.intermediate_values:
        return math.inf
    values = (value for at, value in trial.intermediate_values.items() if at <= step)
    return min((-v if maximize else v for v in values if math.isfinite(v)), default=math.inf)
