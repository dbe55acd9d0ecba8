"""Training runs that the tests of this folder drive themselves, without the engine."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from optuna_hypergrad import Schedule
from optuna_hypergrad.autodiff.updates import (
    SGD,
    Adam,
    AdamW,
    Averaged,
    Clipped,
    Hparam,
    ParameterGroups,
    State,
    Update,
)

Batch = tuple[Tensor, Tensor]


class Heads(nn.Module):
    """A second head that a step uses only where the batch's first number is positive."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.head, self.extra = nn.Linear(5, 6), nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.trunk(x))
        return self.head(hidden) + (self.extra(hidden) if x[0, 0] > 0 else 0.0)


def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def batches(count: int, reaches_extra: Callable[[int], bool] = lambda step: True) -> list[Batch]:
    """Batches whose fifth feature is always 0, so that the weights it meets have no gradient."""
    made = []
    for step in range(count):
        x = torch.randn(8, 5)
        x[0, 0] = x[0, 0].abs() * (1 if reaches_extra(step) else -1)
        x[:, 4] = 0.0
        made.append((x, torch.randint(3, (8,))))
    return made


def grouped(update: Update, model: Heads, own: Callable[[str, float], Hparam]) -> ParameterGroups:
    """Biases as one group, the extra head's matrix as another; ``own`` makes their values."""
    memory = "momentum" if "momentum" in update.hypers else "beta1"
    return ParameterGroups(
        update,
        model,
        [
            {"params": lambda name, p: p.ndim == 1, "weight_decay": own("bias_decay", 0.0)},
            {
                "params": model.extra.weight,
                "lr": own("extra_lr", 0.03),
                "weight_decay": own("extra_decay", 0.3),
                memory: own("extra_memory", 0.6),
            },
        ],
    )


def updates(own: Callable[[str, float], Hparam]) -> dict[str, Callable[[Heads], Update]]:
    """Updates by description; ``own(name, value)`` makes each hyperparameter."""
    sgd = SGD(own("lr", 0.2), own("momentum", 0.7), own("decay", 0.01))
    betas = own("beta1", 0.8), own("beta2", 0.95)
    adam = Adam(own("lr", 0.01), betas, own("eps", 0.02), own("decay", 0.05))
    adamw = AdamW(own("lr", 0.01), betas, own("eps", 0.02), own("decay", 0.5))
    value, norm, average = own("clip_value", 0.1), own("clip_norm", 0.4), own("average", 0.9)
    bounds = {"value": value, "norm": norm}
    return {
        "sgd": lambda model: sgd,
        "nesterov": lambda model: SGD(*sgd.hypers.values(), nesterov=True),
        "adam": lambda model: adam,
        "adam with amsgrad": lambda model: Adam(adam.lr, betas, adam.eps, amsgrad=True),
        "adamw": lambda model: adamw,
        "adamw with amsgrad": lambda model: AdamW(adam.lr, betas, adam.eps, amsgrad=True),
        "clipped by value": lambda model: Clipped(sgd, value=value),
        "clipped by norm": lambda model: Clipped(sgd, norm=norm),
        "clipped by both": lambda model: Clipped(adam, **bounds),
        "averaged": lambda model: Averaged(adam, average),
        "groups of sgd": lambda model: grouped(sgd, model, own),
        "groups of adam": lambda model: grouped(adam, model, own),
        "all": lambda model: Averaged(Clipped(grouped(adamw, model, own), **bounds), average),
        "all in another order": lambda model: grouped(
            Clipped(Averaged(adamw, average), **bounds), model, own
        ),
    }


def values(update: Update, step: int, steps: int) -> dict[str, float]:
    hypers = update.hypers.items()
    return {k: h.at(step, steps) if isinstance(h, Schedule) else h for k, h in hypers}


def train(
    model: nn.Module,
    update: Update,
    data: Sequence[Batch],
    made: Callable[[float], float | Tensor] = float,
) -> tuple[Tensor, State]:
    """Train ``model``; ``made`` makes what the update gets of each hyperparameter's value."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    weights, state = parameters_to_vector(parameters).detach(), ()
    for step, batch in enumerate(data):
        loss = loss_fn(model, batch)
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        gradient = parameters_to_vector(
            [
                torch.zeros_like(p) if g is None else g
                for p, g in zip(parameters, gradients, strict=True)
            ]
        )
        hypers = {k: made(v) for k, v in values(update, step, len(data)).items()}
        new = update(weights, state, gradient, hypers)
        weights, state = _moved(weights, state, new, _reached(parameters, gradients))
        vector_to_parameters(weights, parameters)
    return weights, state


def _reached(parameters: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> Tensor:
    pairs = zip(parameters, gradients, strict=True)
    return torch.cat([torch.full((p.numel(),), g is not None) for p, g in pairs])


def _moved(
    weights: Tensor, state: State, new: tuple[Tensor, State], reached: Tensor
) -> tuple[Tensor, State]:
    """As the engine does: what the loss does not reach stays, 0 before the first step."""
    if reached.all():
        return new
    old = state or tuple(torch.zeros_like(part) for part in new[1])
    kept = tuple(torch.where(reached, n, o) for n, o in zip(new[1], old, strict=True))
    return torch.where(reached, new[0], weights), kept
