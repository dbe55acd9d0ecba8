"""TruncationPruner: ends the segments of members that are about to be replaced."""

from __future__ import annotations

import math

from optuna.pruners import BasePruner
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from optuna_hypergrad.algorithms import selection
from optuna_hypergrad.arguments import checked_count
from optuna_hypergrad.reports.segments import Segment, read_segment
from optuna_hypergrad.samplers.population.population import Population, SegmentTrial
from optuna_hypergrad.samplers.population.sampler import PopulationSampler
from optuna_hypergrad.samplers.studies import maximizes, sampler_of


class TruncationPruner(BasePruner):
    """Prune a segment whose member would be replaced at its end, so that its worker is free.

    That is, one whose best report so far is among the worst of its population up to the same step
    of the segment: among as many as ``PopulationSampler`` truncates, those already pruned
    included. A member that has not come that far in this generation counts with what it had
    reported by that step in the last one, and one without any such report counts as worse.

    Nothing is pruned that the study's ``PopulationSampler`` would not truncate: members younger
    than its ``burn_in``, explorers, and any trial if it has ``truncation=0`` or
    ``selection="tournament"``. A report that is not finite ends the segment of any member.

    With ``trial.report``, the objective reports what it would return at this step, in the study's
    direction, at the same steps of each segment, counted from its start. Constraints, which are
    known at its end, are not considered.

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
        """Whether the trial's member is about to be replaced; False before its first report."""
        step, sampler = trial.last_step, sampler_of(study, PopulationSampler)
        own = read_segment(trial.number, trial.system_attrs)
        if step is None or step < self._n_warmup_steps or sampler is None or own is None:
            return False
        if not math.isfinite(trial.intermediate_values[step]):
            return True
        config = sampler.config
        if config.selection != "truncation" or own.member is None or own.age < config.burn_in:
            return False
        maximize = maximizes(study)
        with sampler.memory.reading(study) as population:
            if any(one.done for one in population.attempts(own.member, own.generation)):
                return False  # another trial has filled its place: this one is an explorer
            size = config.population_size
            others = _losses_of_others(population, own, size, step, maximize)
        # Its own loss comes first, so that it is better than equal ones.
        losses = [_loss(trial, step, maximize), *others]
        return 0 in selection.bottom(losses, config.truncation)


def _losses_of_others(
    population: Population, own: Segment, size: int, step: int, maximize: bool
) -> list[float]:
    """The losses at a step of those that a segment will be compared with.

    Of each other member its latest segment up to this generation, and the explorers of this one.
    """
    finished = population.peers(own.generation, size)
    running = population.running.values()
    there = [one for one in running if step in one.trial.intermediate_values]
    explorers: list[SegmentTrial] = []
    members: dict[int, SegmentTrial] = {}
    for one in sorted((*finished, *there), key=lambda one: (one.generation, -one.number)):
        if one.segment.member is not None and one.generation <= own.generation:
            members[one.segment.member] = one
        elif one.generation == own.generation:
            explorers.append(one)
    others = [members.get(member) for member in range(size) if member != own.member]
    trials = [None if one is None else one.trial for one in (*others, *explorers)]
    return [_loss(trial, step, maximize) for trial in trials]


def _loss(trial: FrozenTrial | None, step: int, maximize: bool) -> float:
    """The best up to a step, to be minimised; infinite if it did not come so far or was pruned."""
    if trial is None or trial.state == TrialState.PRUNED or step not in trial.intermediate_values:
        return math.inf
    values = (value for at, value in trial.intermediate_values.items() if at <= step)
    return min((-v if maximize else v for v in values if math.isfinite(v)), default=math.inf)
