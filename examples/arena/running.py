"""Running of cells: a study up to its budget, then the trainings that judge it."""

from __future__ import annotations

import multiprocessing
import platform
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import optuna
import torch
from cells import (
    ACCURACY,
    CLIPPED,
    COST,
    ENVIRONMENT,
    PLAIN_SECONDS,
    STEPS,
    Cell,
    judge,
    spent,
)
from jobs import Job, loaded
from networks import device_name
from optuna.trial import Trial
from speed import PlainTraining
from torch import nn
from training import Data, Trained, Training, evaluate

import optuna_hypergrad
from optuna_hypergrad import report_hypergradient, trial_seed, wants_hypergradient
from optuna_hypergrad.autodiff import Hypergradient
from samplers import Entry


class Options(NamedTuple):
    """What all cells have in common."""

    data: Path
    storage: str | None  # None: in memory
    budget: float
    device: str


def run_all(
    cells: Sequence[Cell], run_cell: Callable[[Cell], None], storage: str, workers: int
) -> None:
    """Run cells one after another, or in processes, each of which takes a cell at a time."""
    optuna.get_all_study_names(storage)  # creates its tables, which two processes cannot at once
    if workers == 1:
        for cell in cells:
            run_cell(cell)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context) as pool:
        for task in [pool.submit(run_cell, cell) for cell in cells]:
            task.result()


def run(cell: Cell, job: Job, entry: Entry, options: Options) -> optuna.Study:
    """Run a cell up to the budget and judge it, as far as that has not been done."""
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    data, start = loaded(job.data, options.data, options.device), job.start_values(entry.rates)
    steps = job.plain_training().steps
    study = optuna.create_study(
        storage=options.storage,
        study_name=cell.name,
        pruner=entry.pruner(steps),
        load_if_exists=True,
    )
    check_steps(study, steps)
    study.sampler = entry.make(seed_of(cell, entry, len(study.trials)), start)
    began, before = time.process_time(), spent(study)
    if not study.trials and not entry.has_start:
        study.enqueue_trial(start)
    if before < options.budget:
        study.set_user_attr(ENVIRONMENT, environment(options.device))
        plain = PlainTraining(job, data)
        study.optimize(
            lambda trial: objective(trial, job, entry, data, plain),
            callbacks=[lambda study, trial: stop(study, options.budget)],
        )
    judged = judge(study, job, entry, data, options.budget)
    if before < options.budget or judged:
        seconds = time.process_time() - began
        print(f"{cell.name}: {spent(study):.1f} plain trainings, {seconds:.0f} s CPU", flush=True)
    return study


def environment(device: str) -> dict[str, str]:
    """The device, and the versions that may matter."""
    return {
        "device": device_name(device),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "optuna": optuna.__version__,
        "optuna_hypergrad": optuna_hypergrad.__version__,
    }


def check_steps(study: optuna.Study, steps: int) -> None:
    """Store the number of steps of a training, or raise an error if a stored one differs."""
    known = study.user_attrs.get(STEPS)
    if known is None:
        study.set_user_attr(STEPS, steps)
    elif known != steps:
        raise ValueError(f"{study.study_name} is stored with {known} steps, not {steps}.")


def seed_of(cell: Cell, entry: Entry, n_trials: int) -> int:
    """The seed of a cell's sampler; Optuna's would else draw the same again when a cell goes on."""
    if entry.is_gradient or not n_trials:
        return cell.seed
    return int(np.random.SeedSequence((cell.seed, n_trials)).generate_state(1)[0])


def stop(study: optuna.Study, budget: float) -> None:
    """End the study if its trials have cost the budget."""
    if spent(study) >= budget:
        study.stop()


def objective(trial: Trial, job: Job, entry: Entry, data: Data, plain: PlainTraining) -> float:
    """The validation loss of one training; all samplers have this objective."""
    training = job.suggest(trial, entry.rates)
    wanted = wants_hypergradient(trial)

    of_storage = 0.0  # seconds that no training takes

    def report(step: int, model: nn.Module) -> None:
        nonlocal of_storage
        if step in (training.steps // 9, training.steps // 3):
            loss = job.bounded(evaluate(training, model, data.validation)[0])
            begin = plain.clock()
            trial.report(loss, step)
            is_hopeless = trial.should_prune()
            of_storage += plain.clock() - begin
            if is_hopeless:
                raise optuna.TrialPruned

    plain_seconds = plain.seconds
    seed, start = trial_seed(trial), plain.clock()
    try:
        if wanted:
            result = entry.learn(training, data, seed)
        elif entry.is_pruned:
            result = entry.train(training, data, seed, after_step=report)
        else:
            result = entry.train(training, data, seed)
    finally:
        cost = plain.cost(plain.clock() - start - of_storage, plain_seconds)
        trial.set_user_attr(COST, cost)
        trial.set_user_attr(PLAIN_SECONDS, plain_seconds)
    describe(trial, training, data, result)
    return job.bounded(result.loss)


def describe(trial: Trial, training: Training, data: Data, result: Trained) -> None:
    """Store the hypergradient and the validation accuracy of a training, if it has them."""
    if result.hypergradient is not None:
        report_hypergradient(trial, result.hypergradient)
    if isinstance(result.hypergradient, Hypergradient) and result.hypergradient.clipped:
        trial.set_user_attr(CLIPPED, result.hypergradient.clipped)
    accuracy = evaluate(training, result.model, data.validation)[1]
    if accuracy is not None:
        trial.set_user_attr(ACCURACY, accuracy)
