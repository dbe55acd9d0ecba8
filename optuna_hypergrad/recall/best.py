"""The schedules of one trial."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from optuna.distributions import FloatDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from optuna_hypergrad.arguments import check_kind
from optuna_hypergrad.reports import Shape, read_shapes
from optuna_hypergrad.reports.attributes import reading
from optuna_hypergrad.reports.keys import SCHEDULES
from optuna_hypergrad.samplers.constraints import violation
from optuna_hypergrad.schedules import Form, Schedule, Schedules, parameter_names


def best_schedules(study: Study, trial: int | None = None) -> Schedules:
    """The schedules of the best trial: every float hyperparameter, by name.

    What ``suggest_schedule`` suggested comes back with its windows, form and scale; any other
    float parameter is a schedule of one value. Integers and categories are no schedules; they are
    in ``study.best_params``. The best trial of a population is only the last segment of its best
    student: see ``replay``.

    Args:
        study: A study of any sampler.
        trial: Number of another complete or pruned trial; by default the best one.

    Raises:
        ValueError: If there is no such trial, or none is complete and feasible, or several
            objectives leave open which is the best.
        StoredDataError: If the storage holds something else than what was written there.

    Example:
        >>> import optuna
        >>> from optuna_hypergrad import best_schedules, suggest_schedule
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> study = optuna.create_study()
        >>> study.enqueue_trial({"lr_0": 0.5, "lr_1": 0.1, "momentum": 0.9})
        >>> def objective(trial):
        ...     lr = suggest_schedule(trial, "lr", 0.0, 1.0, windows=2)
        ...     return lr.at(0, 10) + trial.suggest_float("momentum", 0.0, 1.0)
        >>> study.optimize(objective, n_trials=1)
        >>> best_schedules(study).at(9, steps=10)
        {'lr': 0.1, 'momentum': 0.9}
    """
    check_kind("study", study, Study, "an Optuna study")
    chosen = _best(study) if trial is None else _numbered(study, trial)
    return schedules_of(chosen, chosen.params)


def schedules_of(trial: FrozenTrial, params: Mapping[str, Any]) -> Schedules:
    """The schedules that a trial suggested, of these values for its parameters.

    Raises:
        StoredDataError: If its parameters cannot make up the schedules that it says it has.
    """
    floats = {n: d for n, d in trial.distributions.items() if isinstance(d, FloatDistribution)}
    with reading(trial.number, SCHEDULES):
        shaped = [_shaped(name, s, floats, params) for name, s in read_shapes(trial).items()]
    single = {n: Schedule(n, [params[n]], log=d.log) for n, d in floats.items()}
    owner = single | {name: schedule for schedule in shaped for name in schedule.names}
    for schedule in shaped:
        if len(schedule.names) > 1 and schedule.name in single:
            both = f"both a schedule and a parameter {schedule.name!r}"
            raise ValueError(f"study: trial {trial.number} has {both}; rename one.")
    return Schedules(dict.fromkeys(owner.values()))


def _shaped(
    name: str, shape: Shape, floats: Mapping[str, FloatDistribution], params: Mapping[str, Any]
) -> Schedule:
    names = parameter_names(name, shape.size)
    missing = [parameter for parameter in names if parameter not in floats]
    if missing:
        raise ValueError(f"{name}: the trial has no float {missing[0]!r}")
    form = cast("Form", shape.form)  # the schedule checks it
    return Schedule(name, [params[parameter] for parameter in names], form, floats[names[0]].log)


def _best(study: Study) -> FrozenTrial:
    if len(study.directions) > 1:
        count = len(study.directions)
        raise ValueError(f"study: which trial is best, with {count} objectives? Name one: trial=….")
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not complete:
        raise ValueError("study: no trial has completed.")
    if all(violation(trial) for trial in complete):
        raise ValueError("study: no complete trial is feasible. Name one: trial=….")
    return study.best_trial


def _numbered(study: Study, number: int) -> FrozenTrial:
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    for trial in trials:
        if trial.number == number:
            return trial
    raise ValueError(f"trial: {number} is not the number of a complete or pruned trial.")
