"""Measure trials per second of many workers on one database, with an objective that costs nothing.

Both samplers beside random search and TPE, one process per worker; medians of interleaved rounds.
ask_cost.py measures the cost by the number of stored trials. The server is named as in
databases.py:

    python examples/benchmarks/scaling.py --storage postgresql --workers 1 2 4 8 16
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path
from statistics import median

import optuna
from ask_cost import objective
from optuna.samplers import BaseSampler, RandomSampler, TPESampler

import databases
from databases import PROCESSES, Address
from optuna_hypergrad import GradientSampler, PopulationSampler

SAMPLERS: dict[str, Callable[[], BaseSampler]] = {
    "random": lambda: RandomSampler(),
    "TPE": lambda: TPESampler(),
    "gradient": lambda: GradientSampler(seed=0, strategy="sign_descent", stop_when_converged=False),
    "population": lambda: PopulationSampler(seed=0),
}


def work(address: Address, name: str, n_trials: int, start: Barrier) -> None:
    """Connect, run a trial, wait for the other workers, then run trials."""
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.load_study(
        study_name="study", storage=databases.connect(address), sampler=SAMPLERS[name]()
    )
    study.optimize(objective, n_trials=1)
    start.wait()
    study.optimize(objective, n_trials=n_trials)


def trials_per_second(kind: str, name: str, n_workers: int, n_trials: int) -> float:
    """The trials per second of all workers together."""
    with databases.fresh(kind) as address:
        optuna.create_study(study_name="study", storage=databases.connect(address))
        start = PROCESSES.Barrier(n_workers + 1, timeout=300)
        arguments = (address, name, n_trials, start)
        workers = [PROCESSES.Process(target=work, args=arguments) for _ in range(n_workers)]
        for worker in workers:
            worker.start()
        start.wait()
        began = time.perf_counter()
        for worker in workers:
            worker.join()
        took = time.perf_counter() - began
    if any(worker.exitcode for worker in workers):
        raise RuntimeError(f"{name}: a worker failed, see above.")
    return n_workers * n_trials / took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--storage", choices=databases.KINDS, default="postgresql")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--trials", type=int, default=160, help="of all workers together")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    found = {}
    for n_workers in args.workers:
        each = -(-args.trials // n_workers)
        rounds = [
            {name: trials_per_second(args.storage, name, n_workers, each) for name in SAMPLERS}
            for _ in range(args.rounds)
        ]
        rates = {name: median(one[name] for one in rounds) for name in SAMPLERS}
        ratio = {name: median(one["random"] / one[name] for one in rounds) for name in SAMPLERS}
        found[n_workers] = {"trials per second": rates, "time a trial, random = 1": ratio}
        cells = (f"{name} {rates[name]:7.1f}/s ({ratio[name]:5.2f}×)" for name in SAMPLERS)
        print(f"{n_workers:3d} workers  " + "  ".join(cells), flush=True)
    if args.json is not None:
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
