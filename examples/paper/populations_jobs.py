"""What a job of populations.py consists of, and the parts of its data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Batch = tuple[Tensor, Tensor]


class Data(NamedTuple):
    """Inputs and targets in four parts; of the test part, nothing is used by the search."""

    train: Batch
    validation: Batch  # for hypergradients
    selection: Batch  # to compare members
    test: Batch

    def to(self, device: torch.device) -> Data:
        """The data on a device."""
        return Data(*((x.to(device), y.to(device)) for x, y in self))


@dataclass(frozen=True)
class Job:
    """A network with regularisers, its data, and how it is trained.

    Args:
        ranges: Bounds of the hyperparameters by name.
        data: Reads the data from a folder.
        network: The plain network, whose regularisers are layers that read their strength.
        loss: ``loss(model, batch)``, regularised in training mode.
        optimizer: Makes the optimizer of a network's weights.
        steps: Training steps of a hypernetwork in a segment.
        batch_size: Examples of a batch.
        lr: Of the hyperparameters, in unconstrained units.
        without_validation: Steps of a hypernetwork without validation steps that cost as much as
            one with.
        plain: Steps of a plain network that cost as much as one of a hypernetwork with validation.
        population: Number of members.
        generations: Segments of a member.
        start: Fraction of the ranges, from the lower bound, in which first segments start.
        warm_up: Segments without validation steps.
    """

    ranges: dict[str, tuple[float, float]]
    data: Callable[[Path], Data]
    network: Callable[[], nn.Module]
    loss: Callable[[nn.Module, Batch], Tensor]
    optimizer: Callable[[nn.Module], torch.optim.Optimizer]
    steps: int
    batch_size: int
    lr: float
    without_validation: float
    plain: float
    population: int
    generations: int
    start: float = 0.2
    warm_up: int = 1


def draw(data: Batch, size: int) -> Batch:
    """A random batch."""
    chosen = torch.randint(len(data[0]), (size,), device=data[0].device)
    return data[0][chosen], data[1][chosen]


def in_batches(data: Batch, size: int = 500) -> Iterator[Batch]:
    """All examples in order."""
    yield from zip(data[0].split(size), data[1].split(size), strict=True)


def evaluate(model: nn.Module, data: Batch) -> tuple[float, float]:
    """Mean cross entropy and accuracy, without regularisation."""
    model.eval()
    loss, hits, count = 0.0, 0, 0
    with torch.no_grad():
        for x, y in in_batches(data):
            logits, y = model(x).flatten(0, -2), y.flatten()
            loss += float(F.cross_entropy(logits, y, reduction="sum"))
            hits += int((logits.argmax(-1) == y).sum())
            count += len(y)
    model.train()
    return loss / count, hits / count
