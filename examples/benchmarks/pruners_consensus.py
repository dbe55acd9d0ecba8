"""Workers of uneven speed on one search of a digits schedule, with and without a pruner.

The trainings and their hypergradients are real, the clock is simulated: each trial has its own
pace, as on shared machines, and the trainings proceed in the order of the clock.
"""

from __future__ import annotations

import heapq
import sys
from collections.abc import Generator
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import optuna
from optuna.pruners import NopPruner
from optuna.trial import TrialState

sys.path.insert(0, str(Path(__file__).parents[1]))
from digits import WORST, Digits, loss_fn, new_model, random_batches

from optuna_hypergrad import (
    ConsensusPruner,
    GradientSampler,
    report_hypergradient,
    suggest_schedule,
    trial_seed,
)
from optuna_hypergrad.autodiff import SGD, ForwardMode

WORKERS, STEPS, EVERY = 6, 50, 5
SPREAD = 0.5  # standard deviation of the logarithm of a trial's pace
REPLICATES = {"1 replicate": 1, "3 replicates": 3}

Training = Generator[float, None, float]


def training(trial: optuna.Trial, data: Digits) -> Training:
    """The training loss at intervals, then the validation loss."""
    lr = suggest_schedule(trial, "lr", -1.0, 1.0, windows=3)
    momentum = suggest_schedule(trial, "momentum", 0.0, 0.99)
    seed = trial_seed(trial)
    batches = random_batches(data.train, seed)
    model = new_model(seed, "cpu")
    update = SGD(lr, momentum=momentum)
    run = ForwardMode(model, loss_fn, update, steps=STEPS, products="batched")
    for step in range(STEPS):
        loss = run.step(batches(step))
        if step % EVERY == EVERY - 1:
            yield float(loss)
    result = run.hypergradient(data.validation)
    report_hypergradient(trial, result.gradient)
    return result.loss


def run(search: str, trials: int, seed: int, prunes: bool) -> dict[str, Any]:
    """Training steps and time until this many outer steps are decided, and the loss of the last."""
    data, paces = Digits.load("cpu"), np.random.default_rng(seed)
    sampler = GradientSampler(
        seed=seed,
        strategy="sign_descent",
        n_replicates=REPLICATES[search],
        stop_when_converged=False,
    )
    study = optuna.create_study(
        sampler=sampler, pruner=ConsensusPruner() if prunes else NopPruner()
    )
    steps, clock = 0, 0.0
    workers: list[tuple[float, int, float, optuna.Trial, Training]] = []

    def begin() -> None:
        trial, pace = study.ask(), float(np.exp(SPREAD * paces.standard_normal()))
        heapq.heappush(workers, (clock + pace, trial.number, pace, trial, training(trial, data)))

    for _ in range(WORKERS):
        begin()
    while sampler.chains(study)[0].steps < trials:
        clock, number, pace, trial, going = heapq.heappop(workers)
        if _train_to_report(study, trial, going):
            heapq.heappush(workers, (clock + pace, number, pace, trial, going))
            steps += EVERY
        else:
            begin()
    done = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    last = [t.value for t in done if t.user_attrs["hg:step"] == trials - 1 and t.value is not None]
    return {"steps": steps, "loss": fmean(last or [WORST]), "clock": clock}


def judge(search: str, without: dict[str, Any], pruned: dict[str, Any]) -> dict[str, Any]:
    """The ratio of times until the outer steps are decided."""
    del search
    return {"time saved": 1 - pruned["clock"] / without["clock"]}


def _train_to_report(study: optuna.Study, trial: optuna.Trial, going: Training) -> bool:
    """Train until the next report; whether the trial still runs."""
    try:
        loss = next(going)
    except StopIteration as end:
        study.tell(trial, end.value)
        return False
    trial.report(loss, len(study.get_trials(deepcopy=False)[trial.number].intermediate_values))
    if trial.should_prune():
        study.tell(trial, state=TrialState.PRUNED)
        return False
    return True
