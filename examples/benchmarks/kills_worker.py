"""Run a worker that dies by SIGKILL at a chosen moment, for kills.py."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from itertools import count
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import optuna
from optuna.artifacts import FileSystemArtifactStore
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from databases import Address, connect
from optuna_hypergrad import GradientSampler, PopulationSampler, members, report_hypergradient

MOMENTS = (
    "before ask",
    "before claim",  # the trial has begun, but its decision is not stored yet
    "after claim",
    "in training",
    "before report",  # of the checkpoint that was uploaded
    "in tell",
)


class Place(NamedTuple):
    """The addresses that the workers of a study share."""

    address: Address
    folder: str  # of the artifacts
    sampler: str  # names the study, too


class Death:
    """Kills this process when it reaches a moment for the n-th time."""

    def __init__(self, moment: str, n: int) -> None:
        self._moment, self._left = moment, n

    def __call__(self, moment: str) -> None:
        self._left -= moment == self._moment
        if self._left < 1:
            os.kill(os.getpid(), signal.SIGKILL)


class MortalStore(FileSystemArtifactStore):
    """A store that may kill its worker after an upload."""

    def __init__(self, folder: str, die: Callable[[str], None]) -> None:
        super().__init__(folder)
        self._die = die

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        super().write(artifact_id, content_body)
        self._die("before report")


def new_sampler(name: str) -> BaseSampler:
    if name == "gradient":
        return GradientSampler(seed=0, strategy="sign_descent", stop_when_converged=False)
    # Late segments count for the model of losses, and so change mutations; the teacher sees none.
    return PopulationSampler(seed=0, population_size=4, mutation="teacher")


def mortal_sampler(name: str, die: Callable[[str], None]) -> BaseSampler:
    """A sampler that may kill its worker around a decision and before a result is stored."""
    sampler = new_sampler(name)
    decide, conclude = sampler.before_trial, sampler.after_trial

    def before_trial(study: Study, trial: FrozenTrial) -> None:
        die("before claim")
        decide(study, trial)
        die("after claim")

    def after_trial(*arguments: Any) -> None:
        die("in tell")
        conclude(*arguments)

    sampler.before_trial, sampler.after_trial = before_trial, after_trial
    return sampler


def bowl(trial: optuna.Trial) -> float:
    """(x − 0.3)² + (y + 0.6)² with its hypergradient, which has noise."""
    errors = {name: trial.suggest_float(name, -1, 1) - at for name, at in (("x", 0.3), ("y", -0.6))}
    noise = np.random.default_rng(trial.number).normal()
    report_hypergradient(trial, {name: 2 * error + noise for name, error in errors.items()})
    return sum(error**2 for error in errors.values())


def objective(
    trial: optuna.Trial, store: FileSystemArtifactStore, die: Callable[[str], None]
) -> float:
    """The bowl; the checkpoint holds the numbers of the trials that trained it."""
    member = members.begin(trial, store)
    loss = bowl(trial)
    history = [*member.restore().get("history", []), trial.number]
    die("in training")
    member.save(history=history)
    trial.set_user_attr("history", history)
    return loss


def work(place: Place, moment: str, n: int, n_trials: int | None) -> None:
    """Run ``trials`` trials, or die when a moment is reached for the n-th time."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    die = Death(moment, n)
    sampler, storage = mortal_sampler(place.sampler, die), connect(place.address)
    study = optuna.load_study(study_name=place.sampler, storage=storage, sampler=sampler)
    store = MortalStore(place.folder, die)
    for _ in count() if n_trials is None else range(n_trials):
        die("before ask")
        trial = study.ask()
        study.tell(trial, objective(trial, store, die))
