"""Reverse-mode hypergradients without the engine, for comparison: both in a few lines of torch.

``unrolled`` is what higher, torchopt and others do: autograd through the whole run, whose graph
stays in memory. ``by_hand`` stores weights and states, and goes back a step at a time. Both take
the engine's update as a map.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

Batch = tuple[Tensor, Tensor]


class Run(NamedTuple):
    """A training run.

    Args:
        model: The model.
        update: The update, a map.
        values: The hyperparameters at a step, which it takes from ``leaves``.
        leaves: The tensors to differentiate by.
        batches: The batch of a step.
        validation: The batch to validate on.
        steps: Number of steps.
    """

    model: nn.Module
    update: Callable[..., Any]
    values: Callable[[int], dict[str, Any]]
    leaves: Mapping[str, Tensor]
    batches: Callable[[int], Batch]
    validation: Batch
    steps: int


def flat(model: nn.Module) -> tuple[Tensor, Callable[[Tensor, Batch], Tensor]]:
    """The weights as one vector, and the loss as a function of it."""
    named = dict(model.named_parameters())
    sizes = [p.numel() for p in named.values()]

    def loss(weights: Tensor, batch: Batch) -> Tensor:
        parts = weights.split(sizes)
        pairs = zip(named.items(), parts, strict=True)
        state = {name: part.view(p.shape) for (name, p), part in pairs}
        return F.cross_entropy(functional_call(model, state, (batch[0],)), batch[1])

    return torch.cat([p.detach().reshape(-1) for p in named.values()]), loss


def unrolled(run: Run) -> dict[str, Tensor]:
    """The derivative by the leaves."""
    model, update, values, leaves, batches, validation, steps = run
    weights, loss = flat(model)
    weights.requires_grad_()
    state: tuple[Tensor, ...] = ()
    for step in range(steps):
        (gradient,) = torch.autograd.grad(loss(weights, batches(step)), weights, create_graph=True)
        weights, state = update(weights, state, gradient, values(step))
    found = torch.autograd.grad(loss(weights, validation), list(leaves.values()))
    return dict(zip(leaves, found, strict=True))


def by_hand(run: Run) -> dict[str, Tensor]:
    """The derivative by the leaves."""
    model, update, values, leaves, batches, validation, steps = run
    weights, loss = flat(model)
    state: tuple[Tensor, ...] = ()
    points, total = [], {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    for step in range(steps):
        (gradient,) = torch.autograd.grad(loss(weights.requires_grad_(), batches(step)), weights)
        points.append((weights.detach(), state))
        with torch.no_grad():
            weights, state = update(weights, state, gradient, values(step))
    weights.requires_grad_()
    adjoint = [*torch.autograd.grad(loss(weights, validation), weights)]
    adjoint += [torch.zeros_like(part) for part in state]
    for step in reversed(range(steps)):
        weights, state = points.pop()
        inputs = [part.detach().requires_grad_() for part in (weights, *state)]
        value = loss(inputs[0], batches(step))
        (gradient,) = torch.autograd.grad(value, inputs[0], create_graph=True)
        leaf = gradient.detach().requires_grad_()
        new, new_state = update(inputs[0], tuple(inputs[1:]), leaf, values(step))
        pairs = [(o, a) for o, a in zip((new, *new_state), adjoint, strict=True) if o.requires_grad]
        outputs, adjoints = map(list, zip(*pairs, strict=True))
        wanted = [leaf, *inputs, *leaves.values()]
        found = torch.autograd.grad(
            outputs, wanted, adjoints, allow_unused=True, materialize_grads=True
        )
        (curved,) = torch.autograd.grad(gradient, inputs[0], found[0])
        adjoint = [found[1] + curved, *found[2 : 1 + len(inputs)]]
        for name, part in zip(leaves, found[1 + len(inputs) :], strict=True):
            total[name] += part
    return total
