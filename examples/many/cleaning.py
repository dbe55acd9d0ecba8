"""Data cleaning: weights of 500 groups of training examples, of which many are mislabelled.

    python examples/many/cleaning.py

The digits of scikit-learn, 900 for training in 500 groups; the labels of two fifths of the groups
are random wrong ones. The search sees 450 clean images for validation and learns a weight in
[0, 1] for each group. The bad groups are those with the smallest weights: the area under the ROC
curve says how well they are found. With ``--full``, MNIST: 55,000 images in 5,500 groups, from
``--data``.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import many
import numpy as np
import torch
import torch.nn.functional as F
from jobs_tables import digits_parts, mlp
from optuna.trial import BaseTrial, FrozenTrial
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from training import Batch, Data, Hypers, Training, data_of

IS_FULL = "--full" in sys.argv
GROUPS, BAD, CLASSES = 5_500 if IS_FULL else 500, 0.4, 10
SIZES = (784, 128, CLASSES) if IS_FULL else (64, 64, 64, CLASSES)
STEPS, SIZE = (600, 128) if IS_FULL else (200, 64)


def bad_groups() -> Tensor:
    """Which groups have wrong labels."""
    return torch.rand(GROUPS, generator=torch.Generator().manual_seed(0)) < BAD


def images(root: Path) -> tuple[Batch, Batch, Batch]:
    """Training, validation and test images."""
    if not IS_FULL:
        return digits_parts()
    import mnist

    (x, y), (test_x, test_y) = mnist.images(root, "train"), mnist.images(root, "test")
    x, test_x = x.flatten(1), test_x.flatten(1)
    return (x[:55_000], y[:55_000]), (x[55_000:57_000], y[55_000:57_000]), (test_x, test_y)


def mislabelled(root: Path) -> Data:
    """Training images with labels, of which those of the bad groups are wrong, and groups."""
    (x, y), validation, test = images(root)
    group = torch.arange(len(x)) * GROUPS // len(x)
    shift = torch.randint(1, CLASSES, (len(x),), generator=torch.Generator().manual_seed(1))
    y = torch.where(bad_groups()[group], (y + shift) % CLASSES, y)
    return data_of((x, y, group), validation, test)


def weighted(model: nn.Module, batch: Batch, hypers: Hypers) -> Tensor:
    """Cross entropy with the weights of the examples' groups."""
    x, y, group = batch
    return (hypers["weight"][group] * F.cross_entropy(model(x), y, reduction="none")).mean()


def training(weight: Any) -> Training:
    """A network for these weights."""
    model, options = partial(mlp, SIZES), {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.0}
    return Training(model, "sgd", options, weighted, {"weight": weight}, steps=STEPS, size=SIZE)


def suggest(trial: BaseTrial, suggest_weights: Any) -> Training:
    """The search space."""
    return training(suggest_weights(trial, "weight", 0.0, 1.0, GROUPS, step_size=0.4))


def area(trial: FrozenTrial) -> dict[str, float]:
    """How well a trial's weights tell bad groups from good ones."""
    weight = many.suggested(trial, "weight", 0.0, 1.0, GROUPS)
    return {"ROC AUC": round(float(roc_auc_score(bad_groups().numpy(), -weight)), 4)}


if __name__ == "__main__":
    good = (~bad_groups()).float().numpy()
    sys.argv = [argument for argument in sys.argv if argument != "--full"]
    many.main(
        many.ManyJob(
            "cleaning_full" if IS_FULL else "cleaning",
            suggest,
            mislabelled,
            describe=area,
            references={
                "all groups": lambda: training(np.ones(GROUPS, np.float32)),
                "without the bad groups": lambda: training(good),
            },
        ),
        f"weights of {GROUPS} groups",
    )
