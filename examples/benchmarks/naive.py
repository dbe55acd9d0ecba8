"""Forward mode as published, for comparison.

One recursion for each kind of hyperparameter, each with its own tangents Z and C; in each, one
double backward pass of the product gradient · tangent for every tangent whose window has begun.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

import torch
from torch import Tensor, nn
from torch.func import functional_call

Batch = tuple[Tensor, Tensor]
KINDS = ("lr", "momentum", "weight_decay")


def hypergradient(
    model: nn.Module,
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    rates: list[float],
    momenta: list[float],
    decays: list[float],
    batches: Callable[[int], Batch],
    validation: Iterable[Batch],
    steps: int,
    learn: Collection[str] = KINDS,
) -> dict[str, float]:
    """Hypergradients of SGD's learning rates, momenta and weight decays, each in windows."""
    shapes = {name: p.shape for name, p in model.named_parameters()}
    sizes = [shape.numel() for shape in shapes.values()]
    weights = torch.cat([p.detach().reshape(-1) for p in model.parameters()])

    def loss_of(weights: Tensor, batch: Batch) -> Tensor:
        pairs = zip(shapes.items(), weights.split(sizes), strict=True)
        parameters = {name: part.view(shape) for (name, shape), part in pairs}
        return loss_fn(functional_call(model, parameters, (batch[0],)), batch[1])

    values = dict(zip(KINDS, (rates, momenta, decays), strict=True))
    z = {kind: [torch.zeros_like(weights) for _ in values[kind]] for kind in learn}
    c = {kind: [torch.zeros_like(weights) for _ in values[kind]] for kind in learn}
    velocity = torch.zeros_like(weights)
    for step in range(steps):
        window = {kind: len(values[kind]) * step // steps for kind in KINDS}
        rate, momentum, decay = (values[kind][window[kind]] for kind in KINDS)
        weights.requires_grad_()
        loss = loss_of(weights, batches(step))
        gradient = torch.autograd.grad(loss, weights, create_graph=True)[0]
        moved = momentum * velocity + gradient.detach() + decay * weights.detach()
        for kind, tangents in z.items():
            for j in range(window[kind] + 1):
                product = torch.autograd.grad(gradient @ tangents[j], weights, retain_graph=True)[0]
                c[kind][j] = momentum * c[kind][j] + product + decay * tangents[j]
                if kind == "momentum" and j == window[kind]:
                    c[kind][j] += velocity
                if kind == "weight_decay" and j == window[kind]:
                    c[kind][j] += weights.detach()
                tangents[j] = tangents[j] - rate * c[kind][j]
                if kind == "lr" and j == window[kind]:
                    tangents[j] -= moved
        velocity = moved
        weights = weights.detach() - rate * velocity
    weights.requires_grad_()
    held_out = list(validation)
    total = sum(len(labels) for _, labels in held_out)
    loss = sum(loss_of(weights, batch) * (len(batch[1]) / total) for batch in held_out)
    gradient = torch.autograd.grad(loss, weights)[0]
    return {
        kind if len(tangents) == 1 else f"{kind}_{j}": float(gradient @ tangent)
        for kind, tangents in z.items()
        for j, tangent in enumerate(tangents)
    }
