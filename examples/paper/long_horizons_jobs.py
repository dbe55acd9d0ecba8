"""The trainings of the long-horizons experiments: LeNet on MNIST and SVHN, WRN-16-1 on CIFAR-10.

And, for many seeds in minutes, a network of five layers on the digits of scikit-learn.

As in the paper: learning rates in [−1, 1], momentum in [0, 0.99], weight decay in [0, 4e-3], and
every search starts with all at zero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import mnist
import networks
import torch
import torch.nn.functional as F
import trust_jobs
from jobs import Job, Rates
from jobs_tables import digits, mlp
from optuna.trial import BaseTrial
from torch import Tensor, nn
from training import Batch, Data, Training, data_of

from optuna_hypergrad import suggest_schedule

WINDOWS = 7  # of the learning rate
RANGES = {"lr": (-1.0, 1.0), "momentum": (0.0, 0.99), "weight_decay": (0.0, 4e-3)}
PADDING = 4  # pixels on each side of an image that is cropped


@dataclass(frozen=True, eq=False)
class Experiment:
    """A network and its data, whose options of SGD are searched for.

    Args:
        model: The network of a seed.
        data: Reads the data from a folder.
        steps: Number of steps.
        size: Number of examples in a batch.
        is_for_gpu: Whether a plain training takes hours on a CPU.
    """

    model: Callable[[int], nn.Module]
    data: Callable[[Path], Data]
    steps: int
    size: int
    is_for_gpu: bool = False

    def job(self, name: str, windows: int | None = WINDOWS, steps: int | None = None) -> Job:
        """The job with a number of windows of the learning rate, None for one for each step."""
        steps = steps or self.steps

        def suggest(trial: BaseTrial, rates: Rates) -> Training:
            lr = rates(trial, "lr", *RANGES["lr"], windows=windows or steps)
            rest = {n: suggest_schedule(trial, n, *RANGES[n]) for n in ("momentum", "weight_decay")}
            return Training(self.model, "sgd", {"lr": lr, **rest}, steps=steps, size=self.size)

        return Job(
            name,
            suggest,
            self.data,
            start=dict.fromkeys(RANGES, 0.0),
            is_for_gpu=self.is_for_gpu,
            tests_in_eval_mode=True,
        )


def mnist_data(root: Path) -> Data:
    """55,000 images for training, 2,000 for validation, MNIST's 10,000 for tests."""
    x, y = mnist.images(root, "train")
    n = len(x) * 11 // 12
    held_out = (x[n:][-2_000:], y[n:][-2_000:])
    return data_of((x[:n], y[:n]), held_out, mnist.images(root, "test"))


def half_size_cifar(root: Path) -> Data:
    """16 × 16 pixels: 20,000 images for training, 1,000 for validation, 2,000 for tests."""
    x, y = trust_jobs.cifar_images(root, 21_000)
    test_x, test_y = trust_jobs.cifar_images(root, 2_000, "test")
    x, test_x = F.avg_pool2d(x, 2), F.avg_pool2d(test_x, 2)
    return data_of((x[:20_000], y[:20_000]), (x[20_000:], y[20_000:]), (test_x, test_y))


def full_cifar(root: Path) -> Data:
    """47,500 images for training, 2,500 for validation, 10,000 for tests."""
    x, y = trust_jobs.cifar_images(root, 50_000)
    train, held_out = (x[:47_500], y[:47_500]), (x[47_500:], y[47_500:])
    return CroppedImages.of(train, held_out, trust_jobs.cifar_images(root, 10_000, "test"))


@dataclass(frozen=True, eq=False)
class CroppedImages(Data):
    """Data whose training images are shifted and mirrored at random, on their device."""

    train: Batch

    @classmethod
    def of(cls, train: Batch, validation: Batch, test: Batch) -> CroppedImages:
        """Epochs in random order; the draws are made on the CPU, so they stay the same."""
        x = F.pad(train[0], (PADDING,) * 4)
        y, high, wide = train[1], *train[0].shape[2:]

        def batches(seed: int, steps: int, size: int) -> Callable[[int], Batch]:
            draws = torch.Generator().manual_seed(seed)
            epochs = -(-steps * size // len(y))
            order = torch.cat([torch.randperm(len(y), generator=draws) for _ in range(epochs)])
            corners = torch.randint(2 * PADDING + 1, (steps, 2, size), generator=draws)
            flips = torch.rand((steps, size), generator=draws) < 0.5

            def batch(step: int) -> Batch:
                chosen = order[step * size : (step + 1) * size].to(x.device)
                down, right = corners[step].to(x.device)
                rows = down[:, None] + torch.arange(high, device=x.device)
                columns = right[:, None] + torch.arange(wide, device=x.device)
                is_flipped = flips[step].to(x.device)[:, None]
                columns = torch.where(is_flipped, columns.flip(1), columns)
                return cropped(x, chosen, rows, columns), y[chosen]

            return batch

        return cls(batches, validation, test, train)

    def to(self, device: str) -> CroppedImages:
        """The same data on a device."""
        parts = (self.train, self.validation, self.test)
        return self.of(*(tuple(t.to(device) for t in part) for part in parts))


def cropped(x: Tensor, chosen: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The rows and columns of chosen images."""
    channels = torch.arange(x.shape[1], device=x.device)[None, :, None, None]
    return x[chosen[:, None, None, None], channels, rows[:, None, :, None], columns[:, None, None]]


def svhn_data(root: Path) -> Data:
    """71,257 images for training, 2,000 for validation, SVHN's 26,032 for tests."""
    x, y = svhn_images(root, "train")
    return data_of((x[:-2_000], y[:-2_000]), (x[-2_000:], y[-2_000:]), svhn_images(root, "test"))


def svhn_images(root: Path, part: str) -> mnist.Batch:
    """All images of a part, in [−1, 1], and their labels."""
    from torchvision.datasets import SVHN

    try:
        data = SVHN(str(root), split=part, download=True)
    except (OSError, RuntimeError) as error:
        raise SystemExit(f"SVHN is neither in {root} nor could be downloaded: {error}") from error
    x = torch.tensor(data.data).float() / 127.5 - 1
    return x, torch.tensor(data.labels).long()


def lenet_of_colours(seed: int) -> nn.Sequential:
    """LeNet for images of 3 × 32 × 32, with 62,006 weights."""
    torch.manual_seed(seed)
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
    )


EXPERIMENTS = {
    "digits": Experiment(partial(mlp, (*[64] * 5, 10)), digits, steps=200, size=64),
    "mnist": Experiment(mnist.lenet, mnist_data, steps=860, size=128),  # two epochs
    "svhn": Experiment(lenet_of_colours, svhn_data, steps=1_114, size=128),  # two epochs
    "cifar10": Experiment(networks.wide_resnet, half_size_cifar, steps=300, size=64),
    "cifar10-full": Experiment(
        networks.wide_resnet, full_cifar, steps=9_278, size=256, is_for_gpu=True
    ),  # 50 epochs
}
