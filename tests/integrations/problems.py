"""A small regression, schedules to train it with, and what an optimizer's steps really ran with."""

from typing import Any

import torch
from torch import Tensor

from optuna_hypergrad import Schedule, Schedules

STEPS = 6
FOUND = Schedules(
    [
        Schedule("lr", [0.1, 0.05, 0.01]),
        Schedule("weight_decay", [0.1, 0.0], "linear"),
        Schedule("beta1", [0.5, 0.9]),
        Schedule("beta2", [0.99]),
    ]
)
EXPECTED = [FOUND.at(step, STEPS) for step in range(STEPS)]

Ran = list[dict[str, float]]


def recorded(optimizer: torch.optim.Optimizer) -> list[Ran]:
    """What each step ran with, by step and group; filled in while it trains."""
    ran: list[Ran] = []

    def after(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        ran.append([_applied(group) for group in optimizer.param_groups])

    optimizer.register_step_post_hook(after)  # by now a closure has been called
    return ran


def _applied(group: dict[str, Any]) -> dict[str, float]:
    beta1, beta2 = group["betas"]
    return {
        "lr": group["lr"],
        "weight_decay": group["weight_decay"],
        "beta1": beta1,
        "beta2": beta2,
    }


def data() -> tuple[Tensor, Tensor]:
    x = torch.randn(24, 3, generator=torch.Generator().manual_seed(0))
    return x, x.sum(dim=1, keepdim=True)
