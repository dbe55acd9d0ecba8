"""All nine figures, of three small studies, as docs/figures.md shows them.

A search for the schedules of a classifier of digits, the same with three replicates of each outer
step on batches of their own, and a population on Rastrigin's function:

    python examples/figures.py --output docs
"""

from __future__ import annotations

import argparse
from pathlib import Path

import optuna
import torch
from digits import STEPS, Digits, loss_fn, make_objective, new_model, random_batches, suggest
from matplotlib.figure import Figure
from pictures import save
from synthetic import PROBLEMS

from optuna_hypergrad import (
    GradientSampler,
    PopulationSampler,
    report_hypergradient,
    trial_seed,
)
from optuna_hypergrad.autodiff import hypergradient
from optuna_hypergrad.visualization import matplotlib as figures

SEARCH_TRIALS, REPLICATES, NOISY_STEPS = 14, 3, 5
MEMBERS, GENERATIONS = 8, 30
DPI = 64


def search(data: Digits) -> optuna.Study:
    """Big steps, so that one is rejected."""
    sampler = GradientSampler(seed=0, step_size={"lr": 0.3, "momentum": 0.3})
    study = optuna.create_study(sampler=sampler)
    study.optimize(make_objective(data, "cpu", 0, differentiate=True), n_trials=SEARCH_TRIALS)
    return study


def noisy_search(data: Digits) -> optuna.Study:
    """Replicates start from networks of their own, and see batches of their own."""

    def objective(trial: optuna.Trial) -> float:
        seed, update = trial_seed(trial), suggest(trial)
        model, batches = new_model(seed, "cpu"), random_batches(data.train, seed)
        result = hypergradient(model, loss_fn, update, batches, data.validation, steps=STEPS)
        report_hypergradient(trial, result.gradient)
        return result.loss

    study = optuna.create_study(sampler=GradientSampler(seed=0, n_replicates=REPLICATES))
    study.optimize(objective, n_trials=REPLICATES * NOISY_STEPS)
    return study


def population() -> optuna.Study:
    sampler = PopulationSampler(seed=1, population_size=MEMBERS)
    study = optuna.create_study(sampler=sampler)
    study.optimize(PROBLEMS["Rastrigin"].objective, n_trials=MEMBERS * GENERATIONS)
    return study


def drawn() -> dict[str, Figure]:
    """The figures by name."""
    data = Digits.load("cpu")
    searched, noisy, students = search(data), noisy_search(data), population()
    surface = PROBLEMS["Rastrigin"].slice
    return {
        "schedules": figures.plot_schedules(searched),
        "hypergradients": figures.plot_hypergradients(searched),
        "step_sizes": figures.plot_step_sizes(searched),
        "convergence": figures.plot_convergence(searched),
        "hypervariance": figures.plot_hypervariance(noisy),
        "lineage": figures.plot_lineage(students),
        "population": figures.plot_population(students, ["x0", "x1"]),
        "mutations": figures.plot_mutations(students),
        "trajectories": figures.plot_trajectories(students, "x0", "x1", surface),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path())
    output = parser.parse_args().output
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    torch.set_num_threads(1)  # more do not pay for networks as small as these
    for name, figure in drawn().items():
        path = output / f"figure_{name}.png"
        save(figure, path, DPI)
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
