"""Digits, half of which have wrong labels: weights of groups of examples, in 100 or 1,000 dims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jobs import Job, Rates
from jobs_tables import digits_parts, is_in, mlp
from optuna.trial import BaseTrial
from torch import Tensor, nn
from training import Batch, Data, Hypers, Training, data_of, gaussian_dropout

from optuna_hypergrad import Schedule, suggest_schedule

CLASSES = 10


def mislabelled(root: Path, groups: int) -> Data:
    """Training images with their label and group; the labels of every second group are wrong."""
    del root
    (x, y), validation, test = digits_parts()
    group = torch.arange(len(x)) * groups // len(x)
    shift = torch.randint(1, CLASSES, (len(x),), generator=torch.Generator().manual_seed(0))
    y = torch.where(group % 2 == 1, (y + shift) % CLASSES, y)
    return data_of((x, y, group), validation, test)


def weighted(model: nn.Module, batch: Batch, hypers: Hypers, groups: int) -> Tensor:
    """Cross entropy with weights of groups and classes, noise, dropout and label smoothing."""
    x, y, group = batch
    x = gaussian_dropout(x + hypers["noise"] * torch.randn_like(x), hypers["dropout"])
    log_p = model(x).log_softmax(-1)
    hit = F.nll_loss(log_p, y, reduction="none")
    smoothing = hypers["label_smoothing"]
    losses = (1 - smoothing) * hit - smoothing * log_p.mean(-1)
    weights = _vector([hypers[f"weight_{i}"] for i in range(groups)])[group]
    classes = _vector([hypers[f"class_{i}"] for i in range(CLASSES)])[y]
    return (weights * classes * losses).mean()


def _vector(values: Sequence[Tensor | float]) -> Tensor:
    """Values, of which some may be learned, as a vector."""
    if any(isinstance(value, Tensor) for value in values):
        return torch.stack([torch.as_tensor(value) for value in values])
    return torch.tensor(values)


def weights_100(trial: BaseTrial, rates: Rates) -> Training:
    """60 groups, 20 rates in windows, momentum, decays of weights and biases of each layer."""
    options = {
        "lr": rates(trial, "lr", 1e-3, 1.0, windows=20, log=True),
        "momentum": suggest_schedule(trial, "momentum", 0.0, 0.99),
    }
    parts: list[dict[str, Any]] = []
    for i in range(3):
        for kind in ("weight", "bias"):
            name = f"decay_of_{kind}s_{i}"
            decay = suggest_schedule(trial, name, 1e-6, 1e-1, log=True)
            parts.append({"params": partial(is_in, f"{2 * i}.{kind}"), "weight_decay": decay})
    options["weight_decay"] = parts[0]["weight_decay"]
    return _training(trial, options, 60, (1, 1, 1), parts[1:])


def weights_1000(trial: BaseTrial, rates: Rates) -> Training:
    """140 groups, and all else in windows: the options of SGD in 200 of one step each."""
    options = {
        "lr": rates(trial, "lr", 1e-3, 1.0, windows=200, log=True),
        "momentum": suggest_schedule(trial, "momentum", 0.01, 0.99, windows=200),
        "weight_decay": suggest_schedule(trial, "weight_decay", 1e-6, 1e-1, windows=200, log=True),
    }
    return _training(trial, options, 140, (100, 100, 50), ())


def _training(
    trial: BaseTrial,
    options: Mapping[str, Schedule],
    groups: int,
    windows: tuple[int, int, int],
    parts: Sequence[Mapping[str, Any]],
) -> Training:
    """With weights of groups and classes, and noise, dropout and label smoothing in windows."""
    noise, dropout, smoothing = windows
    hypers = {
        **{f"weight_{i}": suggest_schedule(trial, f"weight_{i}", 0, 1) for i in range(groups)},
        **{f"class_{i}": suggest_schedule(trial, f"class_{i}", 0, 2) for i in range(CLASSES)},
        "noise": suggest_schedule(trial, "noise", 0.0, 0.5, windows=noise),
        "dropout": suggest_schedule(trial, "dropout", 0.01, 0.6, windows=dropout),
        "label_smoothing": suggest_schedule(trial, "label_smoothing", 0, 0.3, windows=smoothing),
    }
    model, loss = partial(mlp, (64, 64, 64, CLASSES)), partial(weighted, groups=groups)
    return Training(model, "sgd", options, loss, hypers, parts)


JOBS = (
    Job("weights-100", weights_100, partial(mislabelled, groups=60)),
    Job("weights-1000", weights_1000, partial(mislabelled, groups=140), for_gradients_only=True),
)
