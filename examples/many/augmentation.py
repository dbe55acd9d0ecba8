"""Augmentation and regularisation: strengths by operation, dropout by layer, both by phase.

    python examples/many/augmentation.py --data DIR

LeNet trains for 300 steps on only 300 images of MNIST. Twenty phases of the training have strengths
of six operations on images and dropout rates of three layers each: 180 hyperparameters. DIR holds
mnist.npz, or receives torchvision's download.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import many
import mnist
import torch
import torch.nn.functional as F
from jobs_images import squares
from optuna.trial import BaseTrial
from torch import Tensor, nn
from training import Batch, Data, Hypers, Training, data_of, gaussian_dropout

OPERATIONS = ("rotation", "shift", "zoom", "contrast", "noise", "erasing")
PHASES, LAYERS, STEPS, SIZE, TRAIN = 20, 3, 300, 32, 300
START = 0.02  # of strengths and rates: the derivative by a strength of 0 is 0


def few_images(root: Path) -> Data:
    """300 images for training, 1,000 for validation, 4,000 for tests; batches with their phase."""
    (x, y), (test_x, test_y) = mnist.images(root, "train"), mnist.images(root, "test")
    plain = data_of(
        (x[:TRAIN], y[:TRAIN]), (x[-1_000:], y[-1_000:]), (test_x[:4_000], test_y[:4_000])
    )

    def batches(seed: int, steps: int, size: int) -> Callable[[int], Batch]:
        draw = plain.batches(seed, steps, size)
        return lambda step: (*draw(step), torch.tensor(PHASES * step // steps))

    return Data(batches, plain.validation, plain.test)


class LeNet(nn.Module):
    """LeNet with dropout after its pooling layers and its first linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 6, 5), nn.Conv2d(6, 16, 5)
        self.linear = nn.ModuleList([nn.Linear(256, 120), nn.Linear(120, 84), nn.Linear(84, 10)])

    def forward(self, x: Tensor, rates: Tensor | None = None) -> Tensor:
        """Logits; without rates, without dropout."""
        first, second, third = [None] * LAYERS if rates is None else rates
        x = dropped(F.max_pool2d(self.first(x).relu(), 2), first)
        x = dropped(F.max_pool2d(self.second(x).relu(), 2), second)
        x = dropped(self.linear[0](x.flatten(1)).relu(), third)
        return self.linear[2](self.linear[1](x).relu())


def dropped(x: Tensor, rate: Tensor | None) -> Tensor:
    """Dropout, unless there is no rate."""
    return x if rate is None else gaussian_dropout(x, rate)


def network(seed: int) -> nn.Module:
    """The network of a seed."""
    torch.manual_seed(seed)
    return LeNet()


def changed(x: Tensor, strengths: Tensor) -> Tensor:
    """Images changed at random, each by all operations; strengths have derivatives."""
    rotation, shift, zoom, contrast, noise, erasing = strengths
    n = len(x)
    angle, size = rotation * torch.randn(n), (zoom * torch.randn(n)).exp()
    rows = [size * angle.cos(), -size * angle.sin(), shift * torch.randn(n)]
    rows += [size * angle.sin(), size * angle.cos(), shift * torch.randn(n)]
    grid = F.affine_grid(torch.stack(rows, 1).reshape(n, 2, 3), list(x.shape), align_corners=False)
    x = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
    x = x * (1 + contrast * torch.randn(n, 1, 1, 1)) + noise * torch.randn_like(x)
    return x * (1 - erasing * squares(x))


def augmented(model: nn.Module, batch: Batch, hypers: Hypers) -> Tensor:
    """Cross entropy of changed images, with the strengths and rates of the phase."""
    x, y, phase = batch
    x = changed(x, hypers["strength"][phase])
    return F.cross_entropy(model(x, hypers["dropout"][phase]), y)


def training(hypers: Any) -> Training:
    """A training with these strengths and rates."""
    options = {"lr": 0.1, "momentum": 0.0, "weight_decay": 0.0}
    return Training(network, "sgd", options, augmented, hypers, steps=STEPS, size=SIZE)


def suggest(trial: BaseTrial, suggest_values: Any) -> Training:
    """The search space."""
    options = {"start": START, "step_size": 0.4}
    strength = suggest_values(trial, "strength", 0, 0.5, (PHASES, len(OPERATIONS)), **options)
    dropout = suggest_values(trial, "dropout", 0.01, 0.6, (PHASES, LAYERS), **options)
    return training({"strength": strength, "dropout": dropout})


def neither() -> Training:
    """Without augmentation and almost without dropout."""
    strength = torch.zeros(PHASES, len(OPERATIONS)).numpy()
    return training({"strength": strength, "dropout": torch.full((PHASES, LAYERS), 0.01).numpy()})


if __name__ == "__main__":
    many.main(
        many.ManyJob(
            "augmentation",
            suggest,
            few_images,
            start={"strength": START, "dropout": START},
            references={"neither": neither},
        ),
        "strengths of six operations and three dropout rates in twenty phases",
    )
