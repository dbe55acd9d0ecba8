"""Samplers against each other on real trainings, at equal compute, judged on fresh seeds.

Every cell, a job with a sampler and a seed, is a study in --storage, named job/sampler/seed. Its
trials store what they cost, in plain trainings: CPU seconds over those of a plain training, which
is timed again and again. A cell ends when its trials have cost --budget; run again, only what is
missing runs. At 10, 25, 50 and 500 plain trainings, as far as the budget reaches, and at its end,
the recommended hyperparameters are trained with five fresh seeds and evaluated on test data:

    python examples/arena/arena.py --data DIR --storage sqlite:///arena.db \\
        --jobs digits-sgd digits-adam --samplers random tpe ours --seeds 0 1 2 --workers 2

With --device cuda the jobs are larger networks, and their costs seconds on the clock; give these a
storage of their own.

DIR holds mnist.npz and cifar10_jpeg.npz (downloaded otherwise), ptb.valid.txt, ptb.test.txt and
tinyshakespeare.txt, as far as the jobs need them. table.py makes the tables from stored studies.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import optuna
import torch
from catalogue import JOBS
from cells import COST, PLAIN_SECONDS, Cell, judge, spent
from greedy import train_greedily
from jobs import Job, cosine_rates, loaded
from optuna.trial import Trial
from speed import PlainTraining
from torch import nn
from training import Data, evaluate, train

from optuna_hypergrad import report_hypergradient, trial_seed, wants_hypergradient
from samplers import OPTIONAL, SAMPLERS, Entry


def main() -> None:
    """Run the chosen cells."""
    args = parse_arguments()
    cells = [
        Cell(job, sampler, seed)
        for seed in args.seeds
        for job in args.jobs
        for sampler in args.samplers
        if is_possible(JOBS[job], SAMPLERS[sampler])
    ]
    options = Options(args.data, args.storage, args.budget, args.device)
    if args.workers == 1:
        for cell in cells:
            run(cell, options)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.workers, context) as pool:
        for task in [pool.submit(run, cell, options) for cell in cells]:
            task.result()


def is_possible(job: Job, entry: Entry) -> bool:
    """Whether the sampler has a meaning for the job."""
    if job.for_gradients_only and not entry.is_gradient:
        return False
    return job.has_schedule or entry.rates is not cosine_rates


class Options(NamedTuple):
    """What all cells have in common."""

    data: Path
    storage: str
    budget: float
    device: str


def run(cell: Cell, options: Options) -> None:
    """Run a cell up to the budget and judge it, as far as that has not been done."""
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    job, entry = JOBS[cell.job], SAMPLERS[cell.sampler]
    data, start = loaded(job.data, options.data, options.device), job.start_values(entry.rates)
    study = optuna.create_study(
        storage=options.storage,
        study_name=cell.name,
        pruner=entry.pruner(job.plain_training().steps),
        load_if_exists=True,
    )
    study.sampler = entry.make(seed_of(cell, entry, len(study.trials)), start)
    began, before = time.process_time(), spent(study)
    if not study.trials and not entry.is_gradient:
        study.enqueue_trial(start)
    if before < options.budget:
        plain = PlainTraining(job, data)
        study.optimize(
            lambda trial: objective(trial, job, entry, data, plain),
            callbacks=[lambda study, trial: stop(study, options.budget)],
        )
    judged = judge(study, job, entry, data, options.budget)
    if before < options.budget or judged:
        seconds = time.process_time() - began
        print(f"{cell.name}: {spent(study):.1f} plain trainings, {seconds:.0f} s CPU", flush=True)


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
        if wanted and entry.is_greedy:
            result = train_greedily(training, data, seed)
        else:
            after_step = report if entry.is_pruned else None
            result = train(training, data, seed, learn=wanted, after_step=after_step)
    finally:
        cost = plain.cost(plain.clock() - start - of_storage, plain_seconds)
        trial.set_user_attr(COST, cost)
        trial.set_user_attr(PLAIN_SECONDS, plain_seconds)
    if result.hypergradient is not None:
        report_hypergradient(trial, result.hypergradient)
    return job.bounded(result.loss)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    usual = [name for name in SAMPLERS if name not in OPTIONAL]
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--storage", default="sqlite:///arena.db")
    parser.add_argument("--jobs", nargs="+", choices=JOBS, help="by default those of the device")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=usual)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--budget", type=float, default=50.0, help="plain trainings of a cell")
    parser.add_argument("--workers", type=int, default=1, help="processes, each on its own cells")
    args = parser.parse_args()
    of_device = [name for name, job in JOBS.items() if job.is_for_gpu == (args.device == "cuda")]
    args.jobs = args.jobs or of_device
    return args


if __name__ == "__main__":
    main()
