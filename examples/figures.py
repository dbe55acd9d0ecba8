"""Draw the pictures of docs/figures.md, from six small studies.

A search for the schedules of a classifier of digits by sign descent, the same with three replicates
of each outer step on different batches, the same by a Gaussian process, trials with ever larger
learning rates, weights of images of which a third are mislabelled, and a population on Rastrigin's
function:

    python examples/figures.py --output docs
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import optuna
import torch
import torch.nn.functional as F
from digits import STEPS, Digits, loss_fn, make_objective, new_model, random_batches, suggest
from matplotlib.figure import Figure
from pictures import save
from synthetic import PROBLEMS
from torch import Tensor, nn

from optuna_hypergrad import (
    GradientSampler,
    PopulationSampler,
    report_hypergradient,
    suggest_array,
    suggest_schedule,
    trial_seed,
)
from optuna_hypergrad.autodiff import SGD, hypergradient
from optuna_hypergrad.visualization import matplotlib as figures

SEARCH_TRIALS, REPLICATES, NOISY_STEPS, MODELLED_TRIALS = 14, 3, 5, 25
MEMBERS, GENERATIONS = 8, 30
WEIGHTED, WEIGHTED_TRIALS = 600, 14  # images, trials
RATES = [0.05 * 1.5**i for i in range(8)]  # the last ones make the training chaotic
DPI = 64


def search(data: Digits) -> optuna.Study:
    """A search with large steps, so that one is rejected."""
    sampler = GradientSampler(seed=0, step_size={"lr": 0.3, "momentum": 0.3})
    study = optuna.create_study(sampler=sampler)
    study.optimize(make_objective(data, "cpu", 0, differentiate=True), n_trials=SEARCH_TRIALS)
    return study


def modelled_search(data: Digits) -> optuna.Study:
    """A search whose trials a Gaussian process proposes."""
    sampler = GradientSampler(seed=0, strategy="gaussian_process")
    study = optuna.create_study(sampler=sampler)
    study.optimize(make_objective(data, "cpu", 0, differentiate=True), n_trials=MODELLED_TRIALS)
    return study


def noisy_search(data: Digits) -> optuna.Study:
    """A search whose replicates have different networks and batches."""

    def objective(trial: optuna.Trial) -> float:
        seed, update = trial_seed(trial), suggest(trial)
        model, batches = new_model(seed, "cpu"), random_batches(data.train, seed)
        result = hypergradient(model, loss_fn, update, batches, data.validation, steps=STEPS)
        report_hypergradient(trial, result)
        return result.loss

    study = optuna.create_study(sampler=GradientSampler(seed=0, n_replicates=REPLICATES))
    study.optimize(objective, n_trials=REPLICATES * NOISY_STEPS)
    return study


def increasing_rates(data: Digits) -> optuna.Study:
    """Trials with constant learning rates, each larger than the last."""

    def objective(trial: optuna.Trial) -> float:
        lr = suggest_schedule(trial, "lr", 0.0, RATES[-1])
        model, batches = new_model(0, "cpu"), random_batches(data.train, 0)
        update = SGD(lr, momentum=0.9)
        result = hypergradient(
            model, loss_fn, update, batches, data.validation, steps=STEPS, mode="reverse"
        )
        report_hypergradient(trial, result)
        return result.loss

    study = optuna.create_study()
    for rate in RATES:
        study.enqueue_trial({"lr": rate})
    study.optimize(objective, n_trials=len(RATES))
    return study


def weighted_images(data: Digits) -> optuna.Study:
    """A search for weights of 600 images, a third of which have wrong labels."""
    images, labels = (part[:WEIGHTED] for part in data.train)
    index = torch.arange(WEIGHTED)
    labels = torch.where(index % 3 == 0, (labels + 1) % 10, labels)

    def weighted(
        model: nn.Module, batch: tuple[Tensor, ...], hypers: Mapping[str, Tensor]
    ) -> Tensor:
        x, y, chosen = batch
        losses = F.cross_entropy(model(x), y, reduction="none")
        return (hypers["weights"][chosen] * losses).mean()

    def objective(trial: optuna.Trial) -> float:
        seed = trial_seed(trial)
        weights = suggest_array(trial, "weights", 0.0, 1.0, WEIGHTED, step_size=0.4)
        chosen = torch.randint(WEIGHTED, (STEPS, 64), generator=torch.Generator().manual_seed(seed))
        result = hypergradient(
            new_model(seed, "cpu"),
            weighted,
            SGD(0.1, momentum=0.9),
            lambda step: (images[chosen[step]], labels[chosen[step]], chosen[step]),
            data.validation,
            steps=STEPS,
            hypers={"weights": weights},
            validation_loss_fn=lambda model, batch, hypers: loss_fn(model, batch),
        )
        report_hypergradient(trial, result)
        return result.loss

    study = optuna.create_study()
    study.optimize(objective, n_trials=WEIGHTED_TRIALS)
    return study


def population() -> optuna.Study:
    # The figure of mutations shows weights, which the teacher has and the default does not.
    sampler = PopulationSampler(seed=1, population_size=MEMBERS, mutation="teacher")
    study = optuna.create_study(sampler=sampler)
    study.optimize(PROBLEMS["Rastrigin"].objective, n_trials=MEMBERS * GENERATIONS)
    return study


def drawn() -> dict[str, Figure]:
    """The figures by name."""
    data = Digits.load("cpu")
    searched, noisy, evolved = search(data), noisy_search(data), population()
    chaotic = increasing_rates(data)
    surface = PROBLEMS["Rastrigin"].slice
    return {
        "schedules": figures.plot_schedules(searched),
        "schedules_by_trial": figures.plot_schedules(modelled_search(data)),
        "hypergradients": figures.plot_hypergradients(searched),
        "step_sizes": figures.plot_step_sizes(searched),
        "convergence": figures.plot_convergence(searched),
        "arrays": figures.plot_arrays(weighted_images(data)),
        "hypervariance": figures.plot_hypervariance(noisy),
        "growth": figures.plot_growth(chaotic),
        "lineage": figures.plot_lineage(evolved),
        "population": figures.plot_population(evolved, ["x0", "x1"]),
        "mutations": figures.plot_mutations(evolved),
        "trajectories": figures.plot_trajectories(evolved, "x0", "x1", surface),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path())
    output = parser.parse_args().output
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    torch.set_num_threads(1)  # more threads are slower for such small networks
    for name, figure in drawn().items():
        path = output / f"figure_{name}.png"
        save(figure, path, DPI)
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
