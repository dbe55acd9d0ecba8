"""One worker of a study on a shared storage; start as many as you like, on any machine.

    export STUDY_STORAGE=postgresql+psycopg://user:password@host/database
    python worker.py --trials 0     # once, to create the study before workers start
    python worker.py --trials 24

The URL comes from the environment, where neither a list of processes nor a log shows its password.
Under torchrun, several processes are one worker, which spreads each trial over them:

    torchrun --nproc-per-node 2 worker.py --trials 24
"""

from __future__ import annotations

import argparse
import os

import optuna
from optuna.trial import TrialState
from shared_objective import objective, open_study, storage_url, until

from optuna_hypergrad.distributed import join, optimize


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--trials", type=int, default=24, help="of all workers together")
    args = parser.parse_args()
    if "STUDY_STORAGE" not in os.environ:
        parser.error("set STUDY_STORAGE to the URL of the storage")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    ranks = join(timeout=600)
    study = open_study(storage_url()) if ranks.is_first else None
    if args.trials > 0:
        optimize(study, objective, callbacks=[until(args.trials)])
    if study is None:
        return
    if done := len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))):
        print(f"{ranks.size} ranks; {done} trials, best loss {study.best_value:.3f}")


if __name__ == "__main__":
    main()
