"""Training runs that are the same in one process and over ranks."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autodiff.problems import Batch, batch, batch_norm, batches, dropout, loss_fn, mlp
from optuna_hypergrad import Schedule
from optuna_hypergrad.autodiff import SGD, Adam, Hypergradient, Update

STEPS = 12
LR = Schedule("lr", [0.3, 0.2, 0.1])
MOMENTUM = Schedule("m", [0.0, 0.5])  # leaves zero, where it matters whether it is learned


def smoothed(model: nn.Module, data: Batch, hypers: dict[str, Any]) -> Tensor:
    """Cross entropy with learned label smoothing, which validation depends on directly."""
    logits, eps = model(data[0]), hypers["eps"]
    return (1 - eps) * F.cross_entropy(logits, data[1]) - eps * logits.log_softmax(1).mean()


def scaled(weights: dict[str, Tensor], hypers: dict[str, Any]) -> dict[str, Tensor]:
    """The first layer's initial weights, scaled by a hyperparameter."""
    return {"0.weight": weights["0.weight"] * (1 + hypers["eps"])}


@dataclass(frozen=True)
class Problem:
    """A model, an update, and what else ``hypergradient`` is given."""

    model: Callable[[], nn.Module]
    update: Update
    options: dict[str, Any] = field(default_factory=dict)
    loss: Callable[..., Tensor] = loss_fn


PROBLEMS = {
    "sgd": Problem(mlp, SGD(LR, momentum=MOMENTUM, weight_decay=Schedule("wd", [0.01]))),
    "adam": Problem(mlp, Adam(LR, betas=(Schedule("b1", [0.9, 0.8]), 0.99))),
    "a subset": Problem(mlp, SGD(LR, momentum=MOMENTUM), {"learn": ["lr_2", "m_0"]}),
    "fewer tangents than ranks": Problem(batch_norm, SGD(LR), {"learn": ["lr_0"]}),
    "no tangents": Problem(mlp, SGD(LR, momentum=MOMENTUM), {"learn": ()}),
    "dropout": Problem(dropout, SGD(LR, momentum=MOMENTUM), {"validation_loss_fn": loss_fn}),
    "a knot each": Problem(mlp, SGD(Schedule("lr", [0.3, 0.2, 0.1], "linear"))),
    "clipped and truncated": Problem(
        mlp,
        SGD(LR, momentum=MOMENTUM),
        {"clip_products": 0.01, "truncate": 0.3, "average": True},
    ),
    "hyperparameters of the loss": Problem(
        mlp,
        SGD(LR),
        {"hypers": {"eps": Schedule("eps", [0.1, 0.2])}, "initial": scaled},
        smoothed,
    ),
    "all at once": Problem(mlp, SGD(LR, momentum=MOMENTUM), {"products": "batched"}),
}


def solved(
    call: Callable[..., Hypergradient], name: str, seed: int = 0, mode: str = "forward"
) -> Hypergradient:
    """One of the problems; ``seed`` decides the weights, the data and what dropout draws."""
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(seed)
    problem = PROBLEMS[name]
    model, data, validation = problem.model(), batches(STEPS), batch(20)
    options = {"steps": STEPS, "mode": mode, **problem.options}
    return call(model, problem.loss, problem.update, data, validation, **options)
