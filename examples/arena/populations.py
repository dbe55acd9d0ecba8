"""Populations on real trainings beside tuned single trainings, at equal compute.

    python examples/arena/populations.py --data DIR --storage sqlite:///populations.db \\
        --artifacts FOLDER --jobs transformer --methods default pbt tpe --seeds 0 1 2

A member trains in ten segments with constant hyperparameters in each; a single training has the
windows of its job. A population has as many members as the budget, in plain trainings, pays for:
what a segment costs is timed when a cell begins. Two numbers judge a cell: the test loss of the
trained network that is best in validation, and that of trainings with fresh seeds and the same
schedules (``lineage_schedules``; of a single training, its hyperparameters). Every cell is a study;
run again, only what is missing runs. DIR is that of arena.py. The method pb2, Ray's Population
Based Bandits, needs ``pip install "ray[tune]" GPy scikit-learn`` and runs only if it is named.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna
import torch
from catalogue import JOBS
from cells import COST, FRESH_SEEDS, spent
from jobs import Job, loaded
from optuna.artifacts import FileSystemArtifactStore
from optuna.samplers import TPESampler
from optuna.trial import FixedTrial, Trial, TrialState, create_trial
from segments import (
    GENERATIONS,
    TEST,
    Search,
    affordable,
    constant_rates,
    of_history,
    of_segment,
    segment,
    tested,
)
from speed import PlainTraining
from training import Training, train

from optuna_hypergrad import (
    PopulationSampler,
    lineage,
    lineage_schedules,
    members,
    report_hypergradient,
    suggest_schedule,
    trial_seed,
    wants_hypergradient,
)

RESULT = "result"
OPTIONAL = ("pb2",)
RESAMPLE = {"mutation": "resample", "resample_probability": 0.25}
DEFAULT_JOBS = ("transformer", "lstm", "conv-augment")


def main() -> None:
    usual = [name for name in METHODS if name not in OPTIONAL]
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--storage", default="sqlite:///populations.db")
    parser.add_argument("--artifacts", type=Path, default=Path("populations"), help="checkpoints")
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(DEFAULT_JOBS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=usual)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--budget", type=float, default=30.0, help="in plain trainings")
    args = parser.parse_args()
    if "pb2" in args.methods:
        import populations_pb2  # noqa: F401  # if Ray is missing, that is said before cells run
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    for seed in args.seeds:
        for name in args.jobs:
            for method in args.methods:
                cell = f"{name}/{method}/{seed}"
                result = run(cell, seed, JOBS[name], METHODS[method], args)
                print(f"{cell}: {json.dumps(result)}", flush=True)


def run(
    cell: str,
    seed: int,
    job: Job,
    method: Callable[[Search], Training],
    args: argparse.Namespace,
) -> dict[str, Any]:
    """The result of a cell, which is stored with its study."""
    study = optuna.create_study(storage=args.storage, study_name=cell, load_if_exists=True)
    if RESULT in study.user_attrs:
        return dict(study.user_attrs[RESULT])
    data = loaded(job.data, args.data)
    plain, folder = PlainTraining(job, data), args.artifacts / cell
    training = method(Search(study, seed, job, args.data, data, plain, args.budget, folder))
    fresh = [tested(training, train(training, data, s).model, data, job) for s in FRESH_SEEDS]
    result = {
        "validation": study.best_value,
        "test": study.best_trial.user_attrs[TEST],
        "fresh": fmean(fresh),
        "fresh_losses": fresh,
        "cost": spent(study),
        "trials": len(study.get_trials(deepcopy=False)),
    }
    study.set_user_attr(RESULT, result)
    return result


def tune(search: Search) -> Training:
    """Whole trainings by TPE, until the budget is spent; the best one."""
    study, job, data, plain = search.study, search.job, search.data, search.plain

    def objective(trial: Trial) -> float:
        training, per_training = job.suggest(trial, suggest_schedule), plain.seconds
        start = plain.clock()
        trained = train(training, data, trial_seed(trial))
        trial.set_user_attr(COST, plain.cost(plain.clock() - start, per_training))
        trial.set_user_attr(TEST, tested(training, trained.model, data, job))
        return job.bounded(trained.loss)

    study.sampler = TPESampler(seed=search.seed)
    while spent(study) < search.budget:
        study.optimize(objective, n_trials=1)
    return job.suggest(FixedTrial(study.best_params), suggest_schedule)


@dataclass(frozen=True)
class Population:
    """Arguments of PopulationSampler, and whether all segments report hypergradients.

    If not, those do of which the sampler wants them.
    """

    options: dict[str, Any] = field(default_factory=dict)
    always: bool = False

    def __call__(self, search: Search) -> Training:
        """As many members as the budget pays for, over all generations; the best schedules."""
        study, job, data, plain = search.study, search.job, search.data, search.plain
        search.folder.mkdir(parents=True, exist_ok=True)
        artifacts = FileSystemArtifactStore(str(search.folder))

        def objective(trial: Trial) -> float:
            member = members.begin(trial, artifacts)
            training, per_training = of_segment(job, trial), plain.seconds
            model = training.model(trial_seed(trial))
            restored = member.restore(model=model)
            start = plain.clock()
            learns = self.always or wants_hypergradient(trial)
            found = segment(training, model, data, trial_seed(trial), restored, learns)
            trial.set_user_attr(COST, plain.cost(plain.clock() - start, per_training))
            report_hypergradient(trial, found)
            trial.set_user_attr(TEST, tested(training, model, data, job))
            member.save(model=model, state=found.state)
            return job.bounded(found.loss)

        if "members" not in study.user_attrs:
            config = PopulationSampler(**self.options).config
            space = job.distributions(constant_rates)
            learns = self.always or config.wants_hypergradient(space)
            study.set_user_attr("members", affordable(search, learns))
        size = int(study.user_attrs["members"])
        study.sampler = PopulationSampler(seed=search.seed, population_size=size, **self.options)
        for trial in study.get_trials(deepcopy=False):  # those of a run that was stopped
            if trial.state == TrialState.RUNNING:
                study.tell(trial.number, state=TrialState.FAIL)
        done = sum(trial.state == TrialState.COMPLETE for trial in study.get_trials(deepcopy=False))
        study.optimize(objective, n_trials=size * GENERATIONS - done)
        return of_lineage(study, job)


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


def pb2(search: Search) -> Training:
    """Members of Ray's PB2, whose segments are added to the study when all have ended."""
    from populations_pb2 import HISTORY, LOSS, evolve  # Ray is optional

    study, job = search.study, search.job
    if not study.get_trials(deepcopy=False):
        distributions = job.distributions(constant_rates)
        study.add_trials(
            create_trial(
                value=result[LOSS],
                params=result[HISTORY][-1],
                distributions=distributions,
                user_attrs={name: result[name] for name in (COST, TEST, HISTORY)},
            )
            for result in evolve(search, affordable(search, learns=False))
        )
    return of_history(job, study.best_trial.user_attrs[HISTORY])


METHODS: dict[str, Callable[[Search], Training]] = {
    "default": Population(),
    "default, hypergradients": Population(always=True),
    "teacher": Population({"mutation": "teacher"}),
    "resample": Population(RESAMPLE),
    "resample, no hypergradients": Population({**RESAMPLE, "refine": False}),
    "pbt": Population({"mutation": "perturb", "refine": False}),
    "random restarts": Population({"mutation": None, "truncation": 0.0, "refine": False}),
    "tpe": tune,
    "pb2": pb2,
}


if __name__ == "__main__":
    main()
