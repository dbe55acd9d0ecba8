"""A worker: python worker.py STORAGE FOLDER SEGMENTS: each member counts its segments."""

import random
import sys
import time

import numpy as np
import optuna
import torch
from optuna.artifacts import FileSystemArtifactStore

from optuna_hypergrad import PopulationSampler, members, report_hypergradient


def objective(trial: optuna.Trial) -> float:
    member = members.begin(trial, FileSystemArtifactStore(sys.argv[2]))
    x = trial.suggest_float("x", -1, 1)
    weight = torch.nn.Parameter(torch.zeros(()))
    model = torch.nn.ParameterList([weight])
    history = member.restore(model=model).get("history", [])
    time.sleep(random.uniform(0.0, 0.05))
    with torch.no_grad():
        weight += 1
    report_hypergradient(trial, {"x": 2 * (x - 0.3)})
    member.save(model=model, history=[*history, trial.number])
    trial.set_user_attr("weight", int(weight))
    trial.set_user_attr("history", [*history, trial.number])
    return (x - 0.3) ** 2 + 0.01 * float(np.random.default_rng(trial.number).random())


if __name__ == "__main__":
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.load_study(
        study_name="population",
        storage=sys.argv[1],
        sampler=PopulationSampler(seed=0, population_size=5),
    )
    study.optimize(objective, n_trials=int(sys.argv[3]))
