"""Jobs on data sets that scikit-learn ships: digits, breast cancer, diabetes."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jobs import Job, Rates, adamw_options, sgd_options
from optuna.trial import BaseTrial
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from torch import Tensor, nn
from training import Batch, Data, Hypers, Training, data_of, gaussian_dropout, squared

from optuna_hypergrad import suggest_schedule

ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}


def mlp(sizes: tuple[int, ...], seed: int, activation: type[nn.Module] = nn.ReLU) -> nn.Module:
    """Linear layers with activations between them."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for i in range(len(sizes) - 1):
        layers += [nn.Linear(sizes[i], sizes[i + 1]), activation()]
    return nn.Sequential(*layers[:-1])


def split(x: Any, y: Any, parts: tuple[int, int]) -> tuple[Batch, Batch, Batch]:
    """Training, validation and test data, in a fixed random order."""
    order = np.random.default_rng(0).permutation(len(x))
    a, b = parts[0], sum(parts)
    x = torch.tensor(np.asarray(x)[order], dtype=torch.float32)
    y = torch.tensor(np.asarray(y)[order])
    return (x[:a], y[:a]), (x[a:b], y[a:b]), (x[b:], y[b:])


def digits(root: Path) -> Data:
    """Images of digits."""
    del root
    return data_of(*digits_parts())


def digits_parts() -> tuple[Batch, Batch, Batch]:
    """900 images for training, 450 for validation, 447 for tests."""
    x, y = load_digits(return_X_y=True)
    return split(x / 16.0, y, (900, 450))


def parabola(root: Path) -> Data:
    """The data of README's objective, whose batches are the same in all trainings."""
    del root
    draws = torch.Generator().manual_seed(1)
    x = torch.randn(6000, 20, generator=draws)
    y = (x[:, 0] + x[:, 1] > x[:, 2] ** 2).long()
    train = x[:800], y[:800]

    def batches(seed: int, steps: int, size: int) -> Callable[[int], Batch]:
        del seed, steps, size
        return lambda step: tuple(part[step % 8 :: 8] for part in train)

    return Data(batches, (x[800:1000], y[800:1000]), (x[1000:], y[1000:]))


def standardised(x: Any, n_train: int, order: Any) -> Any:
    """Columns with mean 0 and variance 1 in the training data."""
    train = x[order[:n_train]]
    return (x - train.mean(0)) / train.std(0)


def breast_cancer(root: Path) -> Data:
    """300 cases for training, 135 for validation, 134 for tests."""
    del root
    x, y = load_breast_cancer(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    return data_of(*split(standardised(x, 300, order), y, (300, 135)))


def diabetes(root: Path) -> Data:
    """222 patients for training, 110 for validation, 110 for tests; the target has variance 1."""
    del root
    x, y = load_diabetes(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    y = standardised(y, 222, order)[:, None].astype(np.float32)
    return data_of(*split(standardised(x, 222, order), y, (222, 110)))


def noisy_inputs(model: nn.Module, batch: Batch, hypers: Hypers) -> Tensor:
    """Cross entropy with dropout of inputs and label smoothing."""
    log_p = model(gaussian_dropout(batch[0], hypers["dropout"])).log_softmax(-1)
    smoothing = hypers["label_smoothing"]
    hit = F.nll_loss(log_p, batch[1])
    return (1 - smoothing) * hit - smoothing * log_p.mean()


def digits_sgd(trial: BaseTrial, rates: Rates) -> Training:
    """Three parameters."""
    lr = rates(trial, "lr", 1e-4, 1.0, log=True)
    return Training(partial(mlp, (64, 64, 64, 10)), "sgd", sgd_options(trial, lr))


def readme(trial: BaseTrial, rates: Rates) -> Training:
    """README's objective: five learning rates, also negative ones, and momentum."""
    options = {
        "lr": rates(trial, "lr", -1.0, 1.0, windows=5),
        "momentum": suggest_schedule(trial, "momentum", 0.0, 0.99),
    }
    return Training(partial(mlp, (20, 64, 2), activation=nn.Tanh), "sgd", options)


def digits_readme(trial: BaseTrial, rates: Rates) -> Training:
    """The space of examples/digits.py."""
    options = {
        "lr": rates(trial, "lr", -1.0, 1.0, windows=7),
        "momentum": suggest_schedule(trial, "momentum", 0.0, 0.99),
        "weight_decay": suggest_schedule(trial, "weight_decay", 0.0, 4e-3),
    }
    return Training(partial(mlp, (64, 64, 10)), "sgd", options, size=64)


def digits_adam(trial: BaseTrial, rates: Rates) -> Training:
    """Rates in windows, the options of AdamW, dropout and label smoothing."""
    lr = rates(trial, "lr", 1e-4, 1e-1, windows=4, log=True)
    hypers = {
        "dropout": suggest_schedule(trial, "dropout", 0.01, 0.6),
        "label_smoothing": suggest_schedule(trial, "label_smoothing", 0.0, 0.3),
    }
    model, options = partial(mlp, (64, 64, 64, 10)), adamw_options(trial, lr)
    return Training(model, "adamw", options, noisy_inputs, hypers)


def cancer(trial: BaseTrial, rates: Rates, steps: int = 300, low: float = 1e-4) -> Training:
    """Rates in four windows and the options of AdamW."""
    lr = rates(trial, "lr", low, 1e-1, windows=4, log=True)
    model = partial(mlp, (30, 32, 32, 2))
    return Training(model, "adamw", adamw_options(trial, lr), steps=steps)


def mixed(trial: BaseTrial, rates: Rates) -> Training:
    """Choices and integers beside the options of SGD."""
    activation = ACTIVATIONS[trial.suggest_categorical("activation", list(ACTIVATIONS))]
    is_normed = trial.suggest_categorical("layer_norm", [False, True])
    width = trial.suggest_int("width", 8, 128, log=True)
    size = trial.suggest_int("batch_size", 8, 128, log=True)
    lr = rates(trial, "lr", 1e-4, 1.0, log=True)

    def model(seed: int) -> nn.Module:
        first, *rest = mlp((64, width, width, 10), seed, activation).children()
        norm = [nn.LayerNorm(width)] if is_normed else []
        return nn.Sequential(first, *norm, *rest)

    return Training(model, "sgd", sgd_options(trial, lr), steps=100, size=size)


def tabular(trial: BaseTrial, rates: Rates) -> Training:
    """Rates and weight decays of each layer, momentum, dropout of inputs and noise on targets."""
    del rates
    options = {"momentum": suggest_schedule(trial, "momentum", 0.0, 0.99)}
    groups = []
    for i in range(3):
        lr = suggest_schedule(trial, f"lr_of_layer_{i}", 1e-4, 1e-1, log=True)
        decay = suggest_schedule(trial, f"decay_of_layer_{i}", 1e-4, 1.0, log=True)
        inside = partial(is_in, f"{2 * i}.")
        groups.append({"params": inside, "lr": lr, "weight_decay": decay})
    options |= {"lr": groups[0]["lr"], "weight_decay": groups[0]["weight_decay"]}
    hypers = {
        "dropout": suggest_schedule(trial, "dropout", 0.01, 0.6),
        "noise": suggest_schedule(trial, "noise", 0.0, 1.0),
    }
    model = partial(mlp, (10, 32, 32, 1), activation=nn.Tanh)
    return Training(model, "sgd", options, noisy_targets, hypers, groups[1:], squared)


def noisy_targets(model: nn.Module, batch: Batch, hypers: Hypers) -> Tensor:
    """Squared error with dropout of inputs and noise on targets."""
    x = gaussian_dropout(batch[0], hypers["dropout"])
    return F.mse_loss(model(x), batch[1] + hypers["noise"] * torch.randn_like(batch[1]))


def is_in(prefix: str, name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter belongs to a layer."""
    del parameter
    return name.startswith(prefix)


TWO_CLASSES = 2 * math.log(2)
JOBS = (
    Job("digits-sgd", digits_sgd, digits),
    Job("digits-sgd-bad", digits_sgd, digits, start={"lr": 1e-4}),
    Job("readme", readme, parabola, TWO_CLASSES, start={"lr": 0.0, "momentum": 0.0}),
    Job(
        "digits-readme",
        digits_readme,
        digits,
        start={"lr": 0.0, "momentum": 0.0, "weight_decay": 0.0},
    ),
    Job("digits-adam", digits_adam, digits),
    Job("breast-cancer", cancer, breast_cancer, TWO_CLASSES),
    Job("breast-cancer-60", partial(cancer, steps=60), breast_cancer, TWO_CLASSES),
    Job("breast-cancer-bad", partial(cancer, low=1e-5), breast_cancer, TWO_CLASSES, {"lr": 1e-5}),
    Job("mixed", mixed, digits),
    Job("tabular", tabular, diabetes, 2.0, has_schedule=False),
)
