"""Time one population with one, two and more workers: segments a second, and their efficiency.

    python examples/paper/populations_scaling.py --data DIR --storage sqlite:///populations.db \\
        --artifacts FOLDER --jobs cifar10 --workers 1 2 --generations 3

The workers are processes with one thread each, which continue the same study. Use a machine with
as many idle cores. ``populations_table.py`` reads the studies beside the cells of populations.py.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor

import optuna
import torch
from populations import METHODS, add_arguments, begun, chosen, fail_interrupted, search
from populations_results import Speed, speed_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_arguments(parser)
    parser.add_argument("--method", choices=METHODS, default="hpm")
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    for job in args.jobs:
        for workers in args.workers:
            speed = timed(job, workers, args)
            took = f"{speed.segments} segments in {speed.wall:.1f} s"
            print(f"{job}, {workers} workers: {took}", flush=True)


def timed(job: str, workers: int, args: argparse.Namespace) -> Speed:
    """How fast so many workers are together."""
    cell = f"{job}/{args.method}/{args.seed}/workers-{workers}"
    fail_interrupted(begun(cell, args.method, args.seed, chosen(args, job), args))
    with ProcessPoolExecutor(workers) as pool:
        for future in [pool.submit(work, cell, job, args) for _ in range(workers)]:
            future.result()
    return speed_of(optuna.load_study(study_name=cell, storage=args.storage))


def work(cell: str, name: str, args: argparse.Namespace) -> None:
    """Run segments until the population is complete."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    job = chosen(args, name)
    study = begun(cell, args.method, args.seed, job, args)
    search(
        study, METHODS[args.method], job, job.data(args.data).to(torch.device(args.device)), args
    )


if __name__ == "__main__":
    main()
