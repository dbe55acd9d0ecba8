"""Segments of the members of a population: what they train, and how many a budget pays for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import optuna
import torch
from jobs import Job
from optuna.trial import BaseTrial, FixedTrial
from speed import PlainTraining
from torch import nn
from training import Data, Training, differentiated, evaluate

from optuna_hypergrad import Schedule, suggest_schedule
from optuna_hypergrad.autodiff import Hypergradient

GENERATIONS = 10
TEST = "test_loss"  # attribute of trials


@dataclass(frozen=True)
class Search:
    """A cell: its study, and what every method searches with.

    Args:
        study: Holds every training, or segment of one, as a trial.
        seed: Of the search.
        job: The job.
        root: The folder of the data sets.
        data: The job's data.
        plain: The job's plain training.
        budget: In plain trainings.
        folder: For checkpoints.
    """

    study: optuna.Study
    seed: int
    job: Job
    root: Path
    data: Data
    plain: PlainTraining
    budget: float
    folder: Path


def affordable(search: Search, learns: bool) -> int:
    """The number of members, from the median time of three segments at the job's start."""
    start = FixedTrial({**search.job.start_values(constant_rates)})
    training, seconds = of_segment(search.job, start), list[float]()
    for seed in range(4):
        began = search.plain.clock()
        segment(training, training.model(seed), search.data, seed, {}, learns)
        seconds.append(search.plain.clock() - began)
    per_member = GENERATIONS * median(seconds[1:])
    return max(2, round(search.budget * search.plain.seconds / per_member))


def constant_rates(
    trial: BaseTrial, name: str, low: float, high: float, *, log: bool = False, **shape: Any
) -> Schedule:
    """One rate in place of windows: the segments are the windows of a population."""
    del shape
    return suggest_schedule(trial, name, low, high, log=log)


def of_segment(job: Job, trial: BaseTrial) -> Training:
    """The training of one segment."""
    training = job.suggest(trial, constant_rates)
    return replace(training, steps=training.steps // GENERATIONS)


def segment(
    training: Training,
    model: nn.Module,
    data: Data,
    seed: int,
    restored: dict[str, Any],
    learns: bool,
) -> Hypergradient:
    """Train the network on, from the optimizer's state in the checkpoint."""
    torch.manual_seed(seed)
    batches, state = data.batches(seed, training.steps, training.size), restored.get("state")
    return differentiated(training, model, batches, data, learn=learns, state=state)


def tested(training: Training, model: nn.Module, data: Data, job: Job) -> float:
    """The test loss."""
    return job.bounded(evaluate(training, model, data.test)[0])


def of_history(job: Job, history: list[dict[str, float]]) -> Training:
    """One training with the hyperparameters of each segment in turn."""
    segments = [of_segment(job, FixedTrial(params)) for params in history]

    def joined(kind: str) -> dict[str, Schedule]:
        by_segment = [getattr(training, kind) for training in segments]
        return {
            name: Schedule(name, [schedules[name].values[0] for schedules in by_segment])
            for name in by_segment[0]
        }

    steps = segments[0].steps * len(history)
    return replace(segments[0], steps=steps, options=joined("options"), hypers=joined("hypers"))
