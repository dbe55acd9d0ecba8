"""Convolution networks: LeNet on MNIST, and augmentation strengths on CIFAR-10."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import mnist
import torch
import torch.nn.functional as F
import trust_jobs
from jobs import Job, Rates, sgd_options
from optuna.trial import BaseTrial
from torch import Tensor, nn
from training import Batch, Data, Hypers, Training, data_of

from optuna_hypergrad import suggest_schedule

STRENGTHS = ("brightness", "contrast", "saturation", "noise", "erasing")
ERASED = 8  # pixels of 16


def mnist_images(root: Path) -> Data:
    """55,000 images for training, 1,000 for validation, 4,000 for tests."""
    train, held_out = mnist.load(root)
    x, y = (torch.cat(parts) for parts in zip(*held_out, strict=True))
    return data_of(train, (x[:1000], y[:1000]), (x[1000:], y[1000:]))


def lenet(trial: BaseTrial, rates: Rates) -> Training:
    """Rates in 20 windows, weight decay in nine, momentum."""
    options = {
        "lr": rates(trial, "lr", 1e-4, 1e-1, windows=20, log=True),
        "weight_decay": suggest_schedule(trial, "weight_decay", 1e-6, 1e-1, windows=9, log=True),
        "momentum": suggest_schedule(trial, "momentum", 0.0, 0.99),
    }
    return Training(mnist.lenet, "sgd", options, steps=100)


def small_images(root: Path) -> Data:
    """Images of 16 × 16 pixels: 2,000 for training, 1,000 for validation, 2,000 for tests."""
    x, y = trust_jobs.cifar_images(root)
    x = F.avg_pool2d(x, 2)
    return data_of((x[:2000], y[:2000]), (x[2000:3000], y[2000:3000]), (x[3000:5000], y[3000:5000]))


def convolutions(seed: int) -> nn.Module:
    """Three convolutions of 3 × 3, with 11,018 weights."""
    torch.manual_seed(seed)
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 24, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(24, 24, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(384, 10)),
    )


def augmented(model: nn.Module, batch: Batch, hypers: Hypers) -> Tensor:
    """Cross entropy of images changed at random."""
    x = changed(batch[0], [hypers[name] for name in STRENGTHS])
    return F.cross_entropy(model(x), batch[1])


def changed(x: Tensor, strengths: Sequence[Tensor | float] | Tensor) -> Tensor:
    """Images changed at random, by strengths, which have derivatives; see ``STRENGTHS``."""
    brightness, contrast, saturation, noise, erasing = strengths
    one = torch.Size((len(x), 1, 1, 1))
    x = x + brightness * torch.randn(one)
    mean = x.mean((1, 2, 3), keepdim=True)
    x = mean + (x - mean) * (1 + contrast * torch.randn(one))
    gray = x.mean(1, keepdim=True)
    x = gray + (x - gray) * (1 + saturation * torch.randn(one))
    x = x + noise * torch.randn_like(x)
    return x * (1 - erasing * squares(x))


def squares(x: Tensor) -> Tensor:
    """1 in a square of each image at a random place, else 0."""
    rows, columns = torch.arange(x.shape[2]), torch.arange(x.shape[3])
    first = torch.randint(x.shape[2] - ERASED + 1, (2, len(x), 1))
    down, right = (
        (at >= f) & (at < f + ERASED) for at, f in zip((rows, columns), first, strict=True)
    )
    return (down[:, :, None] & right[:, None, :])[:, None].to(x.dtype)


def conv_augment(trial: BaseTrial, rates: Rates) -> Training:
    """Rates in three windows, momentum and weight decay, five strengths of augmentation."""
    lr = rates(trial, "lr", 1e-3, 1.0, windows=3, log=True)
    hypers = {name: suggest_schedule(trial, name, 0.0, 1.0) for name in STRENGTHS}
    options = sgd_options(trial, lr)
    return Training(convolutions, "sgd", options, augmented, hypers, steps=100)


JOBS = (
    Job("lenet", lenet, mnist_images),
    Job("conv-augment", conv_augment, small_images, is_set_aside=True),
)
