"""Populations on objectives with known hypergradients, and what must hold for every one."""

from collections.abc import Callable
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import TrialState

from optuna_hypergrad import PopulationSampler, report_hypergradient
from optuna_hypergrad.reports.segments import Segment, read_segment
from optuna_hypergrad.samplers.population.population import Population

Objective = Callable[[optuna.Trial], float]


def create(
    storage: str | optuna.storages.BaseStorage | None = None,
    direction: str = "minimize",
    **arguments: Any,
):
    """A study with a small population."""
    arguments = {"seed": 0, "population_size": 4, **arguments}
    sampler = PopulationSampler(**arguments)
    return optuna.create_study(
        study_name="study", storage=storage, sampler=sampler, direction=direction
    )


def bowl(trial: optuna.Trial) -> float:
    """(x − 0.3)² with its hypergradient."""
    x = trial.suggest_float("x", -1, 1)
    report_hypergradient(trial, {"x": 2 * (x - 0.3)})
    return (x - 0.3) ** 2


def silent(trial: optuna.Trial) -> float:
    """The same without a report."""
    return (trial.suggest_float("x", -1, 1) - 0.3) ** 2


def segments(study: optuna.Study) -> list[Segment]:
    trials = study.get_trials(deepcopy=False)
    found = [read_segment(trial.number, trial.system_attrs) for trial in trials]
    return [segment for segment in found if segment is not None]


def places(study: optuna.Study) -> list[tuple[int | None, int]]:
    """(member, generation) of each trial."""
    return [(segment.member, segment.generation) for segment in segments(study)]


def run(study: optuna.Study, value: float | None = 1.0, state: TrialState | None = None) -> int:
    """Run one trial with a value; its number."""
    trial = study.ask()
    trial.suggest_float("x", -1, 1)
    study.tell(trial, value, state=state)
    return trial.number


def population_of(study: optuna.Study) -> Population:
    population = Population(study.direction == StudyDirection.MAXIMIZE)
    population.read(study.get_trials(deepcopy=False))
    return population


def assert_no_gaps(study: optuna.Study) -> None:
    """Every parent is complete, and no member lacks a generation."""
    trials = study.get_trials(deepcopy=False)
    population = population_of(study)
    for segment in segments(study):
        if segment.parent is not None:
            assert trials[segment.parent].state == TrialState.COMPLETE
            # A trial gets its number before its parent is selected, so the parent's may be higher.
            assert segment.parent != segment.trial
            assert population[segment.parent].generation <= segment.generation - 1
        if segment.member is not None:
            for generation in range(segment.generation):
                assert any(s.done for s in population.attempts(segment.member, generation))
