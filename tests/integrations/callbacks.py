"""A study for the tests of Optuna's callbacks."""

from typing import Any

import optuna
from optuna.trial import TrialState

from optuna_hypergrad import (
    GradientSampler,
    PopulationSampler,
    report_hypergradient,
    suggest_schedule,
)

Trials = dict[int, tuple[float | None, dict[str, float]]]

SAMPLERS = {
    "gradient": lambda: GradientSampler(seed=0),
    "population": lambda: PopulationSampler(seed=0, population_size=3),
}


def objective(trial: optuna.Trial) -> float:
    """A valley with its hypergradient; one trial is pruned."""
    lr = suggest_schedule(trial, "lr", -1.0, 1.0, windows=2)
    if trial.number == 4:
        raise optuna.TrialPruned
    report_hypergradient(trial, {n: 2 * (v - 0.3) for n, v in lr.params.items()})
    return sum((value - 0.3) ** 2 for value in lr.values)


def searched(sampler: str, callback: Any) -> optuna.Study:
    study = optuna.create_study(study_name=f"study-{sampler}", sampler=SAMPLERS[sampler]())
    study.optimize(objective, n_trials=7, callbacks=[callback])
    return study


def stored(study: optuna.Study) -> Trials:
    """Value and parameters by number of the trial."""
    assert study.trials[4].state == TrialState.PRUNED and len(study.trials) == 7
    return {trial.number: (trial.value, trial.params) for trial in study.trials}
