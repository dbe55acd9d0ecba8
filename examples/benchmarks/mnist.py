"""MNIST and LeNet for the benchmarks; from mnist.npz in a folder, or downloaded by torchvision."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Batch = tuple[Tensor, Tensor]

VALIDATION, VALIDATION_BATCH = 5_000, 1_000


def load(root: Path, device: str = "cpu") -> tuple[Batch, list[Batch]]:
    """Training images (the first 55,000) and validation batches (the last 5,000 of 60,000)."""
    x, y = (part.to(device) for part in images(root, "train"))
    held_out = (part[-VALIDATION:].split(VALIDATION_BATCH) for part in (x, y))
    return (x[:-VALIDATION], y[:-VALIDATION]), list(zip(*held_out, strict=True))


def images(root: Path, part: Literal["train", "test"]) -> Batch:
    """All images of a part, standardised, and their labels."""
    file = root / "mnist.npz"
    if file.exists():
        with np.load(file) as arrays:
            pixels, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"]
    else:
        from torchvision.datasets import MNIST

        data = MNIST(str(root), train=part == "train", download=True)
        pixels, labels = data.data.numpy(), data.targets.numpy()
    x = (torch.tensor(pixels, dtype=torch.float32)[:, None] / 255 - 0.1307) / 0.3081
    return x, torch.tensor(labels.astype(np.int64))


def lenet(seed: int) -> nn.Sequential:
    """LeNet with 44,426 weights."""
    torch.manual_seed(seed)
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(256, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
    )


def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def random_batches(data: Batch, seed: int, steps: int, size: int) -> Callable[[int], Batch]:
    """Random batches, different at every step."""
    images, labels = data
    draws = torch.Generator().manual_seed(seed)
    chosen = torch.randint(len(images), (steps, size), generator=draws).to(images.device)
    return lambda step: (images[chosen[step]], labels[chosen[step]])
