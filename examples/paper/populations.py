"""Population experiments of the HPM paper and its rebuttal, on a small scale.

    python examples/paper/populations.py --data DIR --storage sqlite:///populations.db \\
        --artifacts FOLDER --jobs cifar10 ptb --methods hpm pbt --seeds 0 1 2

A population of hypernetworks (self-tuning networks) learns the hyperparameters of a classifier of
CIFAR-10 (15) or of a word-level LSTM (7); the methods are those that the rebuttal compares, and
PopulationSampler with its defaults (``ours``). The teacher is that of PopulationSampler; in
``hpm-retrained-teacher`` it is one that is retrained for each clone, as the rebuttal says.

All have as many members and segments, except for ``stn``, one member alone. Segments have equal
cost: a plain network and one without validation steps take more steps, by ratios of CPU seconds
that were measured (``plain`` and ``without_validation`` of the jobs). The teacher's cost comes on
top; it is stored.

Every cell is a study, which can be stopped and continued. DIR contains cifar10_jpeg.npz, or
receives torchvision's download, and ptb.valid.txt and ptb.test.txt. ``--profile full`` has 20
members of the usual size, for a GPU. ``populations_table.py`` makes tables and figures.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import populations_cifar
import populations_ptb
import torch
from optuna.artifacts import FileSystemArtifactStore
from optuna.study import MaxTrialsCallback
from optuna.trial import TrialState
from populations_jobs import Data, Job
from populations_results import ENVIRONMENT, SETTINGS, complete
from populations_segment import MEASURED, Method, Objective
from populations_student import Starts

import optuna_hypergrad
from optuna_hypergrad import PopulationSampler

OVERRIDDEN = ("steps", "population", "generations")
JOBS: dict[str, dict[str, Job]] = {
    "cpu": {"cifar10": populations_cifar.CPU, "ptb": populations_ptb.CPU},
    "full": {"cifar10": populations_cifar.FULL, "ptb": populations_ptb.FULL},
}
# In the paper, members are ready after each segment and mutation does not draw anything again.
PAPER = {"burn_in": 0, "resample_probability": 0.0}
TEACHER = {**PAPER, "mutation": "teacher"}
METHODS: dict[str, Method] = {
    "pbt": Method({**PAPER, "mutation": "perturb", "refine": False}, is_plain=True),
    "stn": Method({"population_size": 1}),
    "stn-restarts": Method({**PAPER, "mutation": None, "truncation": 0.0}),
    "hpm": Method(TEACHER, hypergradient="start"),
    "hpm-one-more-step": Method({**PAPER, "mutation": "hypergradient"}, hypergradient="end"),
    "hpm-random-mutation": Method({**PAPER, "mutation": "perturb"}),
    "hpm-without-hypertraining": Method(
        {**TEACHER, "refine": False}, has_hypertraining=False, hypergradient="start"
    ),
    "hpm-mlp-teacher": Method({**TEACHER, "activation": "leaky_relu"}, hypergradient="start"),
    "hpm-retrained-teacher": Method({**PAPER, "mutation": None}, is_retrained=True),
    "ours": Method(),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_arguments(parser)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    for seed in args.seeds:
        for name in args.jobs:
            job, device = chosen(args, name), torch.device(args.device)
            data = job.data(args.data).to(device)
            for method in args.methods:
                cell = f"{name}/{method}/{seed}"
                study = begun(cell, method, seed, job, args)
                fail_interrupted(study)
                search(study, METHODS[method], job, data, args)
                best = study.best_trial
                segments = f"{len(complete(study))} segments, best of trial {best.number}"
                print(f"{cell}: {segments}: {json.dumps(best.user_attrs[MEASURED])}", flush=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of all scripts that run cells."""
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--storage", default="sqlite:///populations.db")
    parser.add_argument("--artifacts", type=Path, default=Path("populations"), help="checkpoints")
    parser.add_argument("--profile", choices=JOBS, default="cpu")
    parser.add_argument("--device", default="cpu", help="for example cuda")
    parser.add_argument("--jobs", nargs="+", choices=JOBS["cpu"], default=list(JOBS["cpu"]))
    for name in OVERRIDDEN:
        parser.add_argument(f"--{name}", type=int, help="instead of the profile's")


def chosen(args: argparse.Namespace, name: str) -> Job:
    """A job of the profile, with what the arguments override."""
    given = {name: getattr(args, name) for name in OVERRIDDEN}
    return replace(
        JOBS[args.profile][name], **{k: value for k, value in given.items() if value is not None}
    )


def begun(cell: str, method: str, seed: int, job: Job, args: argparse.Namespace) -> optuna.Study:
    """The study of a cell, new or to be continued with the same settings."""
    options = {"population_size": job.population, **METHODS[method].sampler}
    sampler = PopulationSampler(seed=seed, independent_sampler=Starts(seed, job.start), **options)
    study = optuna.create_study(
        storage=args.storage, study_name=cell, sampler=sampler, load_if_exists=True
    )
    settings = {
        "profile": args.profile,
        "device": args.device,
        "members": sampler.config.population_size,
        "generations": job.generations,
        "steps": job.steps,
        "plain": job.plain,
        "without_validation": job.without_validation,
    }
    before = study.user_attrs.get(SETTINGS, settings)
    if before != settings:
        raise SystemExit(f"{cell} was begun with {before}, which differ from {settings}.")
    study.set_user_attr(SETTINGS, settings)
    study.set_user_attr(ENVIRONMENT, environment())
    return study


def fail_interrupted(study: optuna.Study) -> None:
    """Trials of a run that was stopped, so that their segments are repeated at once."""
    for trial in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
        study.tell(trial.number, state=TrialState.FAIL)


def search(
    study: optuna.Study, method: Method, job: Job, data: Data, args: argparse.Namespace
) -> None:
    """Run what is missing of a cell's segments; several processes may do so at once."""
    torch.set_num_threads(1)
    folder = args.artifacts / study.study_name
    folder.mkdir(parents=True, exist_ok=True)
    store = FileSystemArtifactStore(str(folder))
    objective = Objective(job, method, data, store, torch.device(args.device))
    settings: dict[str, Any] = study.user_attrs[SETTINGS]
    target = settings["members"] * settings["generations"]
    if len(complete(study)) < target:
        # A segment whose loss is not a number fails and is repeated, but not forever.
        stop = MaxTrialsCallback(target, states=(TrialState.COMPLETE,))
        study.optimize(objective, n_trials=2 * target, callbacks=[stop])


def environment() -> dict[str, Any]:
    """Of the measurements."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "optuna": optuna.__version__,
        "optuna_hypergrad": optuna_hypergrad.__version__,
        "cores": os.cpu_count(),
    }


if __name__ == "__main__":
    main()
