"""Populations on real trainings beside tuned single trainings, at equal compute.

    python examples/arena/populations.py --data DIR --storage sqlite:///populations.db \\
        --artifacts FOLDER --jobs transformer --methods default pbt tpe --seeds 0 1 2

A member trains in ten segments with constant hyperparameters in each; a single training has the
windows of its job. A population has as many members as the budget, in plain trainings, pays for:
what a segment costs is timed when a cell begins. Two numbers judge a cell: the test loss of the
trained network that is best in validation, and that of trainings with fresh seeds and the same
schedules (``lineage_schedules``; of a single training, its hyperparameters). Every cell is a study;
run again, only what is missing runs. DIR is that of arena.py.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))  # the jobs use its networks

import optuna
import torch
from arena import bounded
from catalogue import JOBS
from cells import FRESH_SEEDS
from jobs import Job, loaded
from optuna.artifacts import FileSystemArtifactStore
from optuna.samplers import TPESampler
from optuna.trial import BaseTrial, FixedTrial, Trial, TrialState
from speed import PlainTraining
from torch import nn
from training import Data, Training, evaluate, train, update_of

from optuna_hypergrad import (
    PopulationSampler,
    Schedule,
    lineage,
    lineage_schedules,
    members,
    report_hypergradient,
    suggest_schedule,
    trial_seed,
)
from optuna_hypergrad.autodiff import Hypergradient, hypergradient

GENERATIONS = 10
COST, TEST, RESULT = "cost", "test_loss", "result"
DEFAULT_JOBS = ("transformer", "lstm", "conv-augment")


@dataclass(frozen=True)
class Method:
    """Arguments of PopulationSampler, and whether segments report hypergradients."""

    options: dict[str, Any] = field(default_factory=dict)
    learns: bool = True


METHODS: dict[str, Method | None] = {  # None: TPE with whole trainings
    "default": Method(),
    "teacher": Method({"mutation": "teacher"}),
    "resample": Method({"mutation": "resample", "resample_probability": 0.25}),
    "default, no hypergradients": Method(learns=False),
    "pbt": Method({"mutation": "perturb", "refine": False}, learns=False),
    "random restarts": Method({"mutation": None, "truncation": 0.0}, learns=False),
    "tpe": None,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--storage", default="sqlite:///populations.db")
    parser.add_argument("--artifacts", type=Path, default=Path("populations"), help="checkpoints")
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(DEFAULT_JOBS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--budget", type=float, default=30.0, help="in plain trainings")
    args = parser.parse_args()
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    for seed in args.seeds:
        for name in args.jobs:
            for method in args.methods:
                cell = f"{name}/{method}/{seed}"
                result = run(cell, seed, JOBS[name], METHODS[method], args)
                print(f"{cell}: {json.dumps(result)}", flush=True)


def run(
    cell: str, seed: int, job: Job, method: Method | None, args: argparse.Namespace
) -> dict[str, Any]:
    """The result of a cell, which is stored with its study."""
    study = optuna.create_study(storage=args.storage, study_name=cell, load_if_exists=True)
    if RESULT in study.user_attrs:
        return dict(study.user_attrs[RESULT])
    data = loaded(job.data, args.data)
    plain = PlainTraining(job, data)
    if method is None:
        tune(study, seed, job, data, plain, args.budget)
        training = job.suggest(FixedTrial(study.best_params), suggest_schedule)
    else:
        store = args.artifacts / cell
        store.mkdir(parents=True, exist_ok=True)
        artifacts = FileSystemArtifactStore(str(store))
        evolve(study, seed, job, data, plain, method, args.budget, artifacts)
        training = of_lineage(study, job)
    fresh = [
        bounded(evaluate(training, train(training, data, s).model, data.test)[0], job)
        for s in FRESH_SEEDS
    ]
    trials = study.get_trials(deepcopy=False)
    result = {
        "validation": study.best_value,
        "test": study.best_trial.user_attrs[TEST],
        "fresh": fmean(fresh),
        "fresh_losses": fresh,
        "cost": sum(trial.user_attrs.get(COST, 0.0) for trial in trials),
        "trials": len(trials),
    }
    study.set_user_attr(RESULT, result)
    return result


def tune(
    study: optuna.Study, seed: int, job: Job, data: Data, plain: PlainTraining, budget: float
) -> None:
    """Whole trainings, until the budget is spent."""

    def objective(trial: Trial) -> float:
        training, per_training = job.suggest(trial, suggest_schedule), plain.seconds
        start = plain.clock()
        trained = train(training, data, trial_seed(trial))
        trial.set_user_attr(COST, plain.cost(plain.clock() - start, per_training))
        trial.set_user_attr(TEST, tested(training, trained.model, data, job))
        return bounded(trained.loss, job)

    study.sampler = TPESampler(seed=seed)
    while sum(t.user_attrs.get(COST, 0.0) for t in study.get_trials(deepcopy=False)) < budget:
        study.optimize(objective, n_trials=1)


def evolve(
    study: optuna.Study,
    seed: int,
    job: Job,
    data: Data,
    plain: PlainTraining,
    method: Method,
    budget: float,
    artifacts: FileSystemArtifactStore,
) -> None:
    """A population of as many members as the budget pays for, over all generations."""

    def objective(trial: Trial) -> float:
        member = members.begin(trial, artifacts)
        training, per_training = of_segment(job, trial), plain.seconds
        model = training.model(trial_seed(trial))
        restored = member.restore(model=model)
        start = plain.clock()
        found = segment(training, model, data, trial_seed(trial), restored, method.learns)
        trial.set_user_attr(COST, plain.cost(plain.clock() - start, per_training))
        if method.learns:
            report_hypergradient(trial, found)
        trial.set_user_attr(TEST, tested(training, model, data, job))
        member.save(model=model, state=found.state)
        return bounded(found.loss, job)

    if "members" not in study.user_attrs:
        study.set_user_attr("members", affordable(job, data, plain, method, budget))
    size = int(study.user_attrs["members"])
    study.sampler = PopulationSampler(seed=seed, population_size=size, **method.options)
    for trial in study.get_trials(deepcopy=False):  # those of a run that was stopped
        if trial.state == TrialState.RUNNING:
            study.tell(trial.number, state=TrialState.FAIL)
    done = sum(trial.state == TrialState.COMPLETE for trial in study.get_trials(deepcopy=False))
    study.optimize(objective, n_trials=size * GENERATIONS - done)


def affordable(job: Job, data: Data, plain: PlainTraining, method: Method, budget: float) -> int:
    """The number of members, from the median time of three segments at the job's start."""
    start = FixedTrial({**job.start_values(constant_rates)})
    training, seconds = of_segment(job, start), list[float]()
    for seed in range(4):
        began = plain.clock()
        segment(training, training.model(seed), data, seed, {}, method.learns)
        seconds.append(plain.clock() - began)
    return max(2, round(budget * plain.seconds / (GENERATIONS * median(seconds[1:]))))


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
    loss, evaluation, with_hypers = training.loss, training.evaluation, bool(training.hypers)
    on_batch: Callable[..., torch.Tensor] = loss if with_hypers else lambda m, b: loss(m, b, {})
    return hypergradient(
        model,
        on_batch,
        update_of(training, model),
        data.batches(seed, training.steps, training.size),
        data.validation,
        steps=training.steps,
        hypers=training.hypers or None,
        validation_loss_fn=lambda m, batch, *_: evaluation(m, batch, {}),
        state=restored.get("state"),
        **({} if learns else {"learn": ()}),
    )


def of_lineage(study: optuna.Study, job: Job) -> Training:
    """One training with the schedules that led to the best segment."""
    schedules = lineage_schedules(study)
    training = of_segment(job, FixedTrial(study.best_params))
    return replace(
        training,
        steps=training.steps * len(lineage(study)),
        options={name: schedules[name] for name in training.options},
        hypers={name: schedules[name] for name in training.hypers},
    )


def tested(training: Training, model: nn.Module, data: Data, job: Job) -> float:
    return bounded(evaluate(training, model, data.test)[0], job)


if __name__ == "__main__":
    main()
