"""A worker process: python worker.py STORAGE TRIALS [HANG], hanging for ever in trial HANG."""

import sys
import time
from pathlib import Path

import optuna

from optuna_hypergrad import GradientSampler
from samplers.studies import quadratic


def objective(trial: optuna.Trial) -> float:
    if len(sys.argv) > 4 and trial.number == int(sys.argv[3]):
        trial.suggest_float("x", -1, 1)
        Path(sys.argv[4]).touch()
        time.sleep(600)
    return quadratic(trial)


if __name__ == "__main__":
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.load_study(
        study_name="shared",
        storage=sys.argv[1],
        sampler=GradientSampler(seed=0, strategy="sign_descent", stop_when_converged=False),
    )
    study.optimize(objective, n_trials=int(sys.argv[2]))
