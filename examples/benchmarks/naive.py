"""Forward mode as the published method does it, to measure against.

One recursion for each kind of hyperparameter, each with tangents Z and C of its own; in each, for
each column whose window has begun, one double backward pass of the product gradient · tangent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.func import functional_call

Batch = tuple[Tensor, Tensor]


def hypergradient(
    model: nn.Module,
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    rates: list[float],
    momentum: float,
    weight_decay: float,
    batches: Callable[[int], Batch],
    validation: Iterable[Batch],
    steps: int,
) -> dict[str, float]:
    """Hypergradients of SGD's learning rates (in windows), momentum and weight decay."""
    shapes = {name: p.shape for name, p in model.named_parameters()}
    sizes = [shape.numel() for shape in shapes.values()]
    weights = torch.cat([p.detach().reshape(-1) for p in model.parameters()])

    def loss_of(weights: Tensor, batch: Batch) -> Tensor:
        pairs = zip(shapes.items(), weights.split(sizes), strict=True)
        named = {name: part.view(shape) for (name, shape), part in pairs}
        return loss_fn(functional_call(model, named, (batch[0],)), batch[1])

    kinds = {"lr": len(rates), "momentum": 1, "weight_decay": 1}
    z = {kind: [torch.zeros_like(weights) for _ in range(n)] for kind, n in kinds.items()}
    c = {kind: [torch.zeros_like(weights) for _ in range(n)] for kind, n in kinds.items()}
    velocity = torch.zeros_like(weights)
    for step in range(steps):
        window = len(rates) * step // steps
        rate = rates[window]
        weights.requires_grad_()
        gradient = torch.autograd.grad(loss_of(weights, batches(step)), weights, create_graph=True)[
            0
        ]
        slope = gradient.detach() + weight_decay * weights.detach()
        moved = momentum * velocity + slope
        for kind, columns in z.items():
            begun = window + 1 if kind == "lr" else 1
            for j in range(begun):
                product = torch.autograd.grad(gradient @ columns[j], weights, retain_graph=True)[0]
                c[kind][j] = momentum * c[kind][j] + product + weight_decay * columns[j]
                if kind == "momentum":
                    c[kind][j] += velocity
                if kind == "weight_decay":
                    c[kind][j] += weights.detach()
                columns[j] = columns[j] - rate * c[kind][j]
                if kind == "lr" and j == window:
                    columns[j] -= moved
        velocity = moved
        weights = weights.detach() - rate * velocity
    weights.requires_grad_()
    held_out = list(validation)
    total = sum(len(labels) for _, labels in held_out)
    loss = sum(loss_of(weights, batch) * (len(batch[1]) / total) for batch in held_out)
    slope = torch.autograd.grad(loss, weights)[0]
    names = {"lr": [f"lr_{i}" for i in range(len(rates))]}
    return {
        name: float(slope @ column)
        for kind, columns in z.items()
        for name, column in zip(names.get(kind, [kind]), columns, strict=True)
    }
