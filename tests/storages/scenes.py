"""Studies on storages of every kind, their workers, and what must hold in the end."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import optuna
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.trial import TrialState

import databases
from databases import Address
from optuna_hypergrad import GradientSampler, PopulationSampler
from samplers.populations import assert_no_gaps
from samplers.studies import quadratic

SAMPLERS: dict[str, Callable[[], BaseSampler]] = {
    "gradient": lambda: GradientSampler(seed=0, strategy="sign_descent", stop_when_converged=False),
    "gaussian process": lambda: GradientSampler(seed=0, strategy="gaussian_process"),
    "population": lambda: PopulationSampler(seed=0, population_size=5),
}


class Place(NamedTuple):
    """A storage, as this process and others reach it."""

    address: Address | None  # None in memory, which only threads share
    storage: BaseStorage


def objective(trial: optuna.Trial) -> float:
    """The quadratic, beside parameters without hypergradients that do not matter."""
    trial.suggest_categorical("kind", [*"abcd"])
    trial.suggest_int("width", 1, 64, log=True)
    return quadratic(trial)


def create(place: Place, sampler: str, name: str) -> optuna.Study:
    return optuna.create_study(
        study_name=f"{name}, {sampler}", storage=place.storage, sampler=SAMPLERS[sampler]()
    )


def work(place: Place, name: str, sampler: str, n_trials: int) -> None:
    """A worker, with a sampler of its own."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.load_study(study_name=name, storage=place.storage, sampler=SAMPLERS[sampler]())
    study.optimize(objective, n_trials=n_trials)


def work_alone(address: Address, *arguments: Any) -> None:
    """The same in a process of its own."""
    work(Place(address, databases.connect(address)), *arguments)


def run_workers(place: Place, study: optuna.Study, sampler: str, *n_trials: int) -> None:
    """Workers side by side, each for so many trials: processes, or threads in memory."""
    arguments = [(study.study_name, sampler, n) for n in n_trials]
    if place.address is None:
        with ThreadPoolExecutor() as pool:
            for done in [pool.submit(work, place, *each) for each in arguments]:
                done.result()
        return
    processes = [
        databases.PROCESSES.Process(target=work_alone, args=(place.address, *each))
        for each in arguments
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * len(processes)


def proposals(study: optuna.Study) -> list[dict[str, Any]]:
    return [trial.params for trial in study.get_trials(deepcopy=False)]


def undisturbed(sampler: str, n_trials: int) -> list[dict[str, Any]]:
    """What one worker proposes in memory."""
    study = optuna.create_study(study_name="alone", sampler=SAMPLERS[sampler]())
    study.optimize(objective, n_trials=n_trials)
    return proposals(study)


def assert_whole(study: optuna.Study, sampler: str, n_trials: int) -> None:
    """All trials are there and complete, and searches have neither gaps nor branches."""
    trials = study.get_trials(deepcopy=False)
    assert [trial.number for trial in trials] == list(range(n_trials))
    assert all(trial.state == TrialState.COMPLETE for trial in trials)
    if sampler == "population":
        assert_no_gaps(study)
    elif sampler == "gradient":
        assert_one_path(study)


def assert_one_path(study: optuna.Study) -> None:
    """Each outer step was run, on what finished before it, and as by one worker alone.

    The objective has no noise, so that replicates change nothing.
    """
    trials = study.get_trials(deepcopy=False)
    steps = [trial.user_attrs["hg:step"] for trial in trials]
    assert set(steps) == set(range(max(steps) + 1))
    path = undisturbed("gradient", max(steps) + 1)
    for trial, step in zip(trials, steps, strict=True):
        learned = {name: trial.params[name] for name in ("x", "y", "z")}
        assert learned == {name: path[step][name] for name in learned}
        for number in trial.system_attrs["hg:claim"]["used"]:
            assert trials[number].state == TrialState.COMPLETE and steps[number] == step - 1
