"""Larger networks, for a GPU: a wide ResNet on CIFAR-10, a deeper transformer on Shakespeare."""

from __future__ import annotations

import math
from pathlib import Path

import networks
import torch
import trust_jobs
from jobs import Job, Rates, adamw_options, sgd_options
from jobs_text import shakespeare
from optuna.trial import BaseTrial
from torch import nn
from training import Data, Training, data_of

CONTEXT, VOCABULARY = trust_jobs.CONTEXT, 65


def all_images(root: Path) -> Data:
    """45,000 images for training, 2,000 for validation, 3,000 for tests."""
    x, y = trust_jobs.cifar_images(root, 50_000)
    return data_of(
        (x[:45_000], y[:45_000]), (x[45_000:47_000], y[45_000:47_000]), (x[47_000:], y[47_000:])
    )


def wide_resnet(trial: BaseTrial, rates: Rates) -> Training:
    """Rates in 24 windows, momentum and weight decay; three epochs."""
    lr = rates(trial, "lr", 1e-3, 1.0, windows=24, log=True)
    options = sgd_options(trial, lr)
    return Training(networks.wide_resnet, "sgd", options, steps=1056, size=128)


def deep_model(seed: int) -> nn.Module:
    """Six layers of width 192."""
    torch.manual_seed(seed)
    return trust_jobs.Characters(VOCABULARY, CONTEXT, 192, 6)


def deep_transformer(trial: BaseTrial, rates: Rates) -> Training:
    """Rates in six windows and the options of AdamW."""
    lr = rates(trial, "lr", 1e-4, 1e-1, windows=6, log=True)
    return Training(deep_model, "adamw", adamw_options(trial, lr), steps=1000)


JOBS = (
    Job("wide-resnet", wide_resnet, all_images, is_for_gpu=True),
    Job(
        "deep-transformer",
        deep_transformer,
        shakespeare,
        2 * math.log(VOCABULARY),
        is_for_gpu=True,
    ),
)
