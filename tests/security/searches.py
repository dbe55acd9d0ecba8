"""Studies to be tampered with, and everything that a worker does with one."""

import copy
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import optuna
import torch
from optuna.trial import FrozenTrial, TrialState
from reports.growing import Result, growing

from optuna_hypergrad import (
    GradientSampler,
    PopulationSampler,
    lineage,
    members,
    report_hypergradient,
    suggest_schedule,
    trial_seed,
)
from optuna_hypergrad.checkpoints import CheckpointError
from optuna_hypergrad.reports import StoredDataError, read_growth
from optuna_hypergrad.reports.objective import Shape, report_shape
from optuna_hypergrad.visualization.figures import growth
from security.stores import MemoryStore

Sampler = GradientSampler | PopulationSampler

FINE = 8  # windows that may move together
ENDS = {5: TrialState.PRUNED, 6: TrialState.FAIL}


def gradient_sampler() -> GradientSampler:
    return GradientSampler(seed=0, n_chains=2, n_replicates=2, start="best")


def population_sampler() -> PopulationSampler:
    return PopulationSampler(seed=0, population_size=3, burn_in=0, mutation="teacher")


def objective(trial: optuna.Trial, store: MemoryStore) -> float:
    """A segment, or an outer step, with all kinds of parameters."""
    member = members.begin(trial, store)
    member.teach(lambda values: {"lr_0": 1.0}, steps=1)
    lr = suggest_schedule(trial, "lr", 1e-3, 1.0, windows=2, log=True)
    decay = suggest_schedule(trial, "decay", 0.0, 1.0, windows=FINE)
    report_shape(trial, "decay", Shape(FINE, "constant", True))
    width = trial.suggest_int("width", 1, 9)
    trial.suggest_categorical("kind", ["a", "b"])
    torch.manual_seed(trial_seed(trial))
    steps = member.restore(rng=False).get("steps", 0)
    gradient = {**dict.fromkeys(lr.names + decay.names, 0.1), "width": 1.0}
    report_hypergradient(trial, Result(gradient, growing(3.0, steps=4, trust={"lr_0": 0.25})))
    member.refined({"width": width + 0.6})
    member.save(steps=steps + 1)
    return sum(lr.values) + width


@cache
def recorded(new: Callable[[], Sampler]) -> tuple[list[FrozenTrial], dict[str, bytes]]:
    """The trials of a study, the last of which still run, and the artifacts that they left."""
    store = MemoryStore()
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for number in range(20):
        if number == 2:
            study.sampler = new()
        run(study, store, ENDS.get(number % 7, TrialState.COMPLETE))
    for _ in range(2):
        study.ask()
    return study.get_trials(), store.files


def replayed(trials: list[FrozenTrial], sampler: Sampler) -> optuna.Study:
    """A study of such trials."""
    study = optuna.create_study(sampler=sampler)
    study.add_trials(trials)
    return study


def copied(new: Callable[[], Sampler]) -> tuple[list[FrozenTrial], MemoryStore]:
    trials, files = recorded(new)
    return copy.deepcopy(trials), MemoryStore(files)


def refused(call: Callable[[], Any]) -> str:
    """Text of our own error if ``call`` raises one; "" if it does not. Others go through."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "trial .* (restores the checkpoint|cannot remove)")
        try:
            call()
        except (StoredDataError, CheckpointError) as error:
            return str(error)
    return ""


def work_on(study: optuna.Study, store: MemoryStore) -> list[str]:
    """Everything that a worker does with a study; texts of the errors."""
    sampler = study.sampler
    calls: list[Callable[[], Any]] = [lambda: run(study, store) for _ in range(3)]
    for trial in study.get_trials(deepcopy=False):
        calls += [lambda trial=trial: trial_seed(trial), lambda trial=trial: read_growth(trial)]
    calls.append(lambda: growth(study))
    if isinstance(sampler, GradientSampler):
        calls.append(lambda: sampler.chains(study))
    else:
        calls += [lambda number=number: _read_lineage(study, number) for number in (None, 12)]
    return [text for text in map(refused, calls) if text]


def _read_lineage(study: optuna.Study, number: int | None) -> None:
    try:
        lineage(study, number)
    except StoredDataError:
        raise
    except ValueError as error:  # with its segment gone, a trial is none of the population's
        assert str(error).startswith(("trial:", "study:"))


def run(study: optuna.Study, store: MemoryStore, state: TrialState = TrialState.COMPLETE) -> None:
    """One trial that ends in this state."""
    trial = study.ask()
    value = objective(trial, store)
    study.tell(trial, value if state == TrialState.COMPLETE else None, state=state)
