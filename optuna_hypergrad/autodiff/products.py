"""Hessian products: the one costly thing about hypergradients.

With x = (w, h) the weights and the learned hyperparameters of the loss L, forward mode needs
∂²L/∂w∂x · ẋ along its tangents, and reverse mode ∂²L/∂x∂w · ẇ along its adjoint. Both are rows of
one symmetric matrix, H·ẋ, so one product serves both. Masks that dropout drew and statistics that
batch norm took are the same in the gradient and in the products.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vmap

from optuna_hypergrad.autodiff.forward_ad import forward_mode
from optuna_hypergrad.autodiff.objective import Batch, Objective, Slope
from optuna_hypergrad.autodiff.replay.randomness import Randomness
from optuna_hypergrad.autodiff.updates.protocol import Values

Products = Literal["auto", "loop", "batched", "forward", "forward-batched"]


@dataclass(frozen=True)
class Along:
    """Rows of directions of x, or of products with them."""

    weights: Tensor  # shape (N, D)
    hypers: Tensor  # shape (N, P)

    def __len__(self) -> int:
        return len(self.weights)

    def row(self, n: int) -> Along:
        """One of the rows, still as a row."""
        return Along(self.weights[n : n + 1], self.hypers[n : n + 1])

    @staticmethod
    def stacked(rows: list[Along]) -> Along:
        """The rows of all as one."""
        return Along(torch.cat([r.weights for r in rows]), torch.cat([r.hypers for r in rows]))

    @staticmethod
    def mean(parts: Sequence[Along]) -> Along:
        """The products with the mean of several Hessians."""
        if len(parts) == 1:
            return parts[0]
        weights = torch.stack([part.weights for part in parts]).mean(0)
        return Along(weights, torch.stack([part.hypers for part in parts]).mean(0))


class Linear(NamedTuple):
    """A batch's slope, and the map from directions to products there."""

    slope: Slope
    product: Callable[[Along, bool], Along]  # of one row, or of any number; True: the last call


@dataclass(frozen=True)
class Way:
    """One way to take Hessian products.

    Args:
        linearise: Differentiation once; its result differentiates again.
        at_once: Whether all rows go through together, in the memory of as many graphs.
    """

    linearise: Callable[[Objective, Batch, Values], Linear]
    at_once: bool

    def __call__(
        self, objective: Objective, batch: Batch, hypers: Values, along: Along
    ) -> tuple[Slope, Along]:
        """The slope of the batch, and H·ẋ for each row of ``along``.

        Args:
            objective: The loss.
            batch: The batch that it is taken on.
            hypers: Values of the hyperparameters of the loss.
            along: The directions.
        """
        if len(along) == 0:
            return objective.slope(batch, hypers), along
        slope, product = self.linearise(objective, batch, hypers)
        if self.at_once:
            return slope, product(along, True)
        last = len(along) - 1
        rows = [product(along.row(n), n == last) for n in range(len(along))]
        return slope, Along.stacked(rows)


def double_backward(objective: Objective, batch: Batch, hypers: Values) -> Linear:
    """Products as the derivative of g·ẋ, one backward pass through the graph of g = ∂L/∂x."""
    weights = objective.weights
    slope, gradients, leaves = objective.graph(batch, hypers, twice=True)

    def product(along: Along, last: bool) -> Along:
        rows = [*weights.split(along.weights), *along.hypers.unbind(-1)]
        pairs = zip(gradients, rows, strict=True)
        curved = [(g, z) for g, z in pairs if g is not None and g.requires_grad]
        if not curved:
            return Along(torch.zeros_like(along.weights), torch.zeros_like(along.hypers))
        one = len(along) == 1
        with objective.switched():  # activation checkpointing runs parts of the model again
            found = torch.autograd.grad(
                [g for g, _ in curved],
                leaves,
                [z[0] if one else z for _, z in curved],
                retain_graph=not last,
                allow_unused=True,
                is_grads_batched=not one,
            )
        count = len(weights.parameters)
        of_hypers = [
            z.new_zeros(z.shape) if f is None else f.detach().reshape(z.shape)
            for f, z in zip(found[count:], along.hypers.unbind(-1), strict=True)
        ]
        return Along(
            weights.join(found[:count], (len(along),)),
            torch.stack(of_hypers, -1) if of_hypers else along.hypers,
        )

    return Linear(slope, product)


def forward_over_reverse(objective: Objective, batch: Batch, hypers: Values) -> Linear:
    """Products as the forward-mode derivative of g, which is taken once more for it."""
    gradient, point = _pure_gradient(objective, batch, hypers)
    weights = objective.weights
    before = Randomness.now(weights.device)
    slope = objective.slope(batch, hypers)

    def tangent(of_weights: Tensor, of_hypers: Tensor) -> Tensor:
        parts = dict(zip(weights.names, weights.split(of_weights), strict=True))
        own = dict(zip(objective.learned, of_hypers.unbind(-1), strict=True))
        by_weight, by_hyper = jvp(gradient, point, (parts, own))[1]
        return torch.cat([t.reshape(-1) for t in (*by_weight.values(), *by_hyper.values())])

    def product(along: Along, last: bool) -> Along:
        del last
        after = Randomness.now(weights.device)
        before.restore()
        with forward_mode:
            if len(along) == 1:
                found = tangent(along.weights[0], along.hypers[0])[None]
            else:
                found = vmap(tangent, randomness="same")(along.weights, along.hypers)
        after.restore()
        found = found.detach()
        return Along(found[:, : len(weights)], found[:, len(weights) :])

    return Linear(slope, product)


def _pure_gradient(
    objective: Objective, batch: Batch, hypers: Values
) -> tuple[Callable[..., Any], tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """∂L/∂x as a function that leaves nothing behind, and the x to take it at."""
    called = _Called(objective)
    buffers = {f"model.{k}": b.clone() for k, b in objective.model.named_buffers()}
    point = (
        {k: p.detach() for k, p in objective.weights.named.items()},
        {k: torch.as_tensor(hypers[k]).detach() for k in objective.learned},
    )

    def loss(weights: dict[str, Tensor], own: dict[str, Tensor]) -> Tensor:
        state = {f"model.{k}": w for k, w in weights.items()}
        state |= {k: b.clone() for k, b in buffers.items()}
        with objective.switched():
            value: Tensor = functional_call(called, state, (batch, {**hypers, **own}))
        return value

    return grad(loss, argnums=(0, 1)), point


class _Called(nn.Module):
    """The loss as a module, so that the model's weights in it can be exchanged."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.model, self._objective = objective.model, objective

    def forward(self, batch: Batch, hypers: Values) -> Tensor:
        return self._objective(batch, hypers)


WAYS: dict[str, Way] = {
    "loop": Way(double_backward, at_once=False),
    "batched": Way(double_backward, at_once=True),
    "forward": Way(forward_over_reverse, at_once=False),
    "forward-batched": Way(forward_over_reverse, at_once=True),
}
