"""Learn a schedule for handwritten digits from hypergradients, starting from all zeros.

A small network is trained on scikit-learn's digits (1,797 images of 8 × 8 pixels) for 200 steps.
Its learning rates in seven windows between −1 and 1, momentum and weight decay all start at 0,
where nothing is learned, and move with the hypergradients of twelve trials:

    python examples/digits.py

The study is stored in digits.db; run again, it resumes. digits_schedules.png shows the schedule of
each outer step. With --sampler random, tpe or cmaes, another sampler gets the same objective and
the same compute, counted in gradient evaluations; digits_schedules.png then shows its losses.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import optuna
import torch
import torch.nn.functional as F
from optuna.trial import BaseTrial, FixedTrial, FrozenTrial
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sqlalchemy import make_url
from torch import Tensor, nn

from optuna_hypergrad import GradientSampler, report_hypergradient, suggest_schedule
from optuna_hypergrad.autodiff import SGD, hypergradient
from optuna_hypergrad.visualization.matplotlib import plot_convergence, plot_schedules

WINDOWS, STEPS, BATCH_SIZE = 7, 200, 64
# At most, in forward mode: one gradient a step, and one HVP, counted as a gradient, for each of the
# hyperparameters whose window has begun: momentum, weight decay, and half of the learning rates.
EVALUATIONS_PER_TRIAL = STEPS * (1 + 2 + (WINDOWS + 1) / 2)
WORST = 100.0  # the value of a run that diverged; with NaN, Optuna would fail the trial

Batch = tuple[Tensor, Tensor]


class Digits(NamedTuple):
    """Images, scaled to [0, 1], and labels, in three parts."""

    train: Batch
    validation: Batch
    test: Batch

    @classmethod
    def load(cls, device: str) -> Digits:
        images, labels = load_digits(return_X_y=True)
        images = (images / 16).astype(np.float32)
        rest, test, rest_y, test_y = train_test_split(
            images, labels, test_size=360, random_state=0, stratify=labels
        )
        train, val, train_y, val_y = train_test_split(
            rest, rest_y, test_size=360, random_state=0, stratify=rest_y
        )
        parts = ((train, train_y), (val, val_y), (test, test_y))
        return cls(*((torch.tensor(x).to(device), torch.tensor(y).to(device)) for x, y in parts))


def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
    images, labels = batch
    return F.cross_entropy(model(images), labels)


def suggest(trial: BaseTrial) -> SGD:
    """The search space."""
    lr = suggest_schedule(trial, "lr", -1.0, 1.0, windows=WINDOWS)
    momentum = suggest_schedule(trial, "momentum", 0.0, 0.99)
    weight_decay = suggest_schedule(trial, "weight_decay", 0.0, 4e-3)
    return SGD(lr, momentum=momentum, weight_decay=weight_decay)


def new_model(seed: int, device: str) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)).to(device)


def random_batches(data: Batch, seed: int) -> Callable[[int], Batch]:
    """Random batches, different at every step."""
    images, labels = data
    draws = torch.Generator().manual_seed(seed)
    chosen = torch.randint(len(images), (STEPS, BATCH_SIZE), generator=draws).to(images.device)
    return lambda step: (images[chosen[step]], labels[chosen[step]])


def make_objective(
    data: Digits, device: str, seed: int, differentiate: bool
) -> Callable[[BaseTrial], float]:
    """Validation loss of a schedule; every trial starts from the same network and batches."""

    def objective(trial: BaseTrial) -> float:
        result = hypergradient(
            new_model(seed, device),
            loss_fn,
            suggest(trial),
            random_batches(data.train, seed),
            data.validation,
            steps=STEPS,
            mode="forward",  # whose cost EVALUATIONS_PER_TRIAL counts
            learn=None if differentiate else (),
        )
        trial.set_user_attr("gradient_evaluations", STEPS + result.products)
        if differentiate:
            report_hypergradient(trial, result)
        return result.loss if math.isfinite(result.loss) else WORST

    return objective


def retrain(params: dict[str, float], data: Digits, device: str, seed: int) -> float:
    """Test accuracy of a network trained with these values on training and validation data."""
    images, labels = (torch.cat(parts) for parts in zip(data.train, data.validation, strict=True))
    model = new_model(seed, device)
    batches = random_batches((images, labels), seed)
    update = suggest(FixedTrial(params))
    hypergradient(model, loss_fn, update, batches, data.validation, steps=STEPS, learn=())
    images, labels = data.test
    with torch.no_grad():
        return float((model(images).argmax(dim=1) == labels).double().mean())


def make_sampler(name: str, seed: int) -> optuna.samplers.BaseSampler:
    samplers: dict[str, Callable[..., optuna.samplers.BaseSampler]] = {
        "gradient": partial(GradientSampler, strategy="sign_descent"),
        "random": optuna.samplers.RandomSampler,
        "tpe": optuna.samplers.TPESampler,
        "cmaes": optuna.samplers.CmaEsSampler,
    }
    return samplers[name](seed=seed)


def finished(study: optuna.Study) -> list[FrozenTrial]:
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]


def print_table(trials: list[FrozenTrial]) -> None:
    names = [*(f"lr_{i}" for i in range(WINDOWS)), "momentum", "weight_decay"]
    print("trial    loss  " + " ".join(f"{name:>8}" for name in names))
    for trial in trials:
        loss = f"{trial.value:8.3f}" if trial.value is not None else f"{trial.state.name:>8}"
        values = (trial.params.get(name, math.nan) for name in names)
        print(f"{trial.number:5d} {loss}  " + " ".join(f"{value:8.4g}" for value in values))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--sampler", choices=["gradient", "random", "tpe", "cmaes"], default="gradient"
    )
    parser.add_argument("--trials", type=int, default=12, help="trials of the gradient search")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--storage", default="sqlite:///digits.db")
    parser.add_argument("--figure", type=Path, default=Path("digits_schedules.png"))
    args = parser.parse_args()
    if args.trials < 1:
        parser.error(f"--trials must be at least 1, got {args.trials}")
    return args


def main() -> None:
    args = parse_arguments()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    data = Digits.load(args.device)
    differentiate = args.sampler == "gradient"
    n_trials = args.trials
    if not differentiate:
        n_trials = round(args.trials * EVALUATIONS_PER_TRIAL / STEPS)
    study = optuna.create_study(
        study_name=f"digits-{args.sampler}-{args.seed}",
        storage=args.storage,
        sampler=make_sampler(args.sampler, args.seed),
        load_if_exists=True,
    )
    done = len(finished(study))
    place = make_url(args.storage).render_as_string()  # without its password
    print(f"{study.study_name}: {done} of {n_trials} trials done in {place}")
    objective = make_objective(data, args.device, args.seed, differentiate)
    study.optimize(objective, n_trials=max(n_trials - done, 0))

    print_table(finished(study))
    best = study.best_trial
    accuracy = [retrain(best.params, data, args.device, seed) for seed in range(100, 105)]
    evaluations = sum(t.user_attrs.get("gradient_evaluations", 0) for t in finished(study))
    print(
        f"best validation loss {best.value:.3f} in trial {best.number}, "
        f"{evaluations:,} gradient evaluations"
    )
    print(
        f"retrained with its schedule, five seeds: test accuracy {np.mean(accuracy):.1%} "
        f"({min(accuracy):.1%} to {max(accuracy):.1%})"
    )
    plot = plot_schedules if differentiate else plot_convergence
    plot(study).savefig(args.figure, dpi=110)
    print(f"wrote {args.figure}; to explore the study: optuna-dashboard {place}")


if __name__ == "__main__":
    main()
