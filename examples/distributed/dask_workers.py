"""Run a study on the workers of a Dask cluster, with or without a database.

    python dask_workers.py --trials 24                      # a cluster on this machine, no database
    python dask_workers.py --scheduler tcp://host:8786      # an existing cluster
    STUDY_STORAGE=postgresql+psycopg://… python dask_workers.py --database

Without a database the study lives in Dask's scheduler (Optuna-Integration's DaskStorage) and ends
with it. With --database every worker opens the URL in its own environment, so that no password
travels through Dask.
"""

from __future__ import annotations

import argparse
import os
import warnings
from pathlib import Path

import optuna
from dask.distributed import Client, LocalCluster
from optuna.exceptions import ExperimentalWarning
from optuna_integration import DaskStorage
from shared_objective import STUDY, new_sampler, objective, open_study, storage_url, until

STORAGE = "hypergrad"  # its name in the scheduler


def work(n_trials: int, database: bool) -> None:
    """Run trials until all workers together have finished ``n_trials``."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = storage_url() if database else in_scheduler()
    study = optuna.load_study(study_name=STUDY, storage=storage, sampler=new_sampler())
    study.optimize(objective, callbacks=[until(n_trials)])


def in_scheduler() -> DaskStorage:
    """The storage in the memory of Dask's scheduler."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return DaskStorage(name=STORAGE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--trials", type=int, default=24, help="of all workers together")
    parser.add_argument("--workers", type=int, default=2, help="of a cluster on this machine")
    parser.add_argument("--scheduler", help="address of an existing cluster")
    parser.add_argument("--database", action="store_true", help="use STUDY_STORAGE")
    args = parser.parse_args()
    if args.database and "STUDY_STORAGE" not in os.environ:
        parser.error("--database: set STUDY_STORAGE to the URL of the storage")
    cluster = args.scheduler or LocalCluster(
        n_workers=args.workers, threads_per_worker=1, dashboard_address=None
    )
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with Client(cluster) as client:
        study = open_study(storage_url() if args.database else in_scheduler())
        client.upload_file(str(Path(__file__).with_name("shared_objective.py")))
        addresses = list(client.scheduler_info(n_workers=-1)["workers"])
        jobs = [  # one per worker; if it dies, another takes over
            client.submit(
                work,
                args.trials,
                args.database,
                workers=[address],
                allow_other_workers=True,
                pure=False,
            )
            for address in addresses
        ]
        client.gather(jobs)  # waits, and raises the workers' errors
        done = len(study.get_trials(deepcopy=False))
        print(f"{len(jobs)} workers; {done} trials, best loss {study.best_value:.3f}")


if __name__ == "__main__":
    main()
