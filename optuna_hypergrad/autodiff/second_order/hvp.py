"""Torch's forward mode, one thread at a time.

Hessian products: the one costly thing about hypergradients.

With x = (w, h) the weights and the learned hyperparameters of the loss, and g(x) the training
gradient, forward mode needs the JVP ∂g/∂x · ẋ along its tangents, and reverse mode the VJP
(∂g/∂x)ᵀ · a along its adjoint. Where g is the gradient of a loss L, both are products with its
symmetric Hessian, so one product serves both: H·ẋ. Where the loss stops gradients
(stop_gradient/), g is the gradient of nothing, and the JVP is taken as the derivative of the VJP,
which is linear in a. Masks that dropout drew and statistics that batch norm took are the same in
the gradient and in the products.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vmap

from optuna_hypergrad.autodiff.loss import Batch, LossGrad, TrainingLoss
from optuna_hypergrad.autodiff.snapshot import GeneratorStates, buffers_of, put_back
from optuna_hypergrad.autodiff.stop_gradient import Stops, without_hooks
from optuna_hypergrad.autodiff.updates.protocol import Values
from optuna_hypergrad.autodiff.weights import Gradients

forward_mode = threading.RLock()
"""To be held while torch differentiates forwards: its nesting levels belong to the process, and a
thread that leaves one takes it from the others."""

with warnings.catch_warnings():
    # torch 2.15 warns of its own torch.jit.script when forward mode is entered for the first time.
    warnings.filterwarnings("ignore", "`torch.jit.script", FutureWarning)
    jvp(torch.neg, (torch.zeros(()),), (torch.zeros(()),))


Product = Literal["jvp", "vjp"]
Products = Literal["auto", "loop", "batched", "forward", "forward-batched"]


@dataclass(frozen=True)
class Directions:
    """Rows of directions of x, or of products with them."""

    weights: Tensor  # shape (N, D)
    hypers: Tensor  # shape (N, P)

    def __len__(self) -> int:
        return len(self.weights)

    def row(self, n: int) -> Directions:
        """One of the rows, still as a row."""
        return Directions(self.weights[n : n + 1], self.hypers[n : n + 1])

    @staticmethod
    def stacked(rows: list[Directions]) -> Directions:
        """The rows of all as one."""
        return Directions(torch.cat([r.weights for r in rows]), torch.cat([r.hypers for r in rows]))

    @staticmethod
    def mean(parts: Sequence[Directions]) -> Directions:
        """The products with the mean of several Hessians."""
        if len(parts) == 1:
            return parts[0]
        weights = torch.stack([part.weights for part in parts]).mean(0)
        return Directions(weights, torch.stack([part.hypers for part in parts]).mean(0))


class Linearized(NamedTuple):
    """A batch's slope, and the map from directions to products there."""

    slope: LossGrad
    product: Callable[
        [Directions, bool], Directions
    ]  # of one row, or of any number; True: the last call
    symmetric: bool = True  # else one row at a time


@dataclass(frozen=True)
class HVPMethod:
    """One way to take Hessian products.

    Args:
        linearise: Differentiation once; its result differentiates again.
        at_once: Whether all rows go through together, in the memory of as many graphs.
    """

    linearise: Callable[[TrainingLoss, Batch, Values, Product], Linearized]
    at_once: bool

    def __call__(
        self,
        objective: TrainingLoss,
        batch: Batch,
        hypers: Values,
        along: Directions,
        kind: Product,
    ) -> tuple[LossGrad, Directions]:
        """The slope of the batch, and its product with each row of ``along``.

        Args:
            objective: The loss.
            batch: The batch that it is taken on.
            hypers: Values of the hyperparameters of the loss.
            along: The directions: ẋ, or a with zeros for the hyperparameters.
            kind: ``"jvp"``, whose result is by the weights alone, or ``"vjp"``.
        """
        if len(along) == 0:
            return objective.slope(batch, hypers), along
        slope, product, symmetric = self.linearise(objective, batch, hypers, kind)
        if self.at_once and symmetric:
            return slope, product(along, True)
        last = len(along) - 1
        rows = [product(along.row(n), n == last) for n in range(len(along))]
        return slope, Directions.stacked(rows)


def double_backward(
    objective: TrainingLoss, batch: Batch, hypers: Values, kind: Product
) -> Linearized:
    """Products as the derivative of g·ẋ, one backward pass through the graph of g = ∂L/∂x."""
    parameters, stops = objective.weights.parameters, Stops()
    slope, gradients, leaves = objective.graph(batch, hypers, twice=True, stops=stops)
    stops.active = False  # g moves with all that it depends on
    symmetric = not stops.found
    outputs, sources = gradients, leaves
    if kind == "jvp" and not symmetric:
        sources = [torch.zeros_like(p, requires_grad=True) for p in parameters]  # a
        outputs = _vjp(objective, gradients, leaves, sources)

    def product(along: Directions, last: bool) -> Directions:
        rows = [*objective.weights.split(along.weights), *along.hypers.unbind(-1)]
        pairs = zip(outputs, rows, strict=False)  # in a VJP, the hyperparameters' rows are zero
        curved = [(g, z) for g, z in pairs if g is not None and g.requires_grad]
        if not curved:
            return Directions(torch.zeros_like(along.weights), torch.zeros_like(along.hypers))
        one = len(along) == 1
        with objective.switched(), without_hooks(parameters):
            # Switched, because activation checkpointing runs parts of the model again.
            found = torch.autograd.grad(
                [g for g, _ in curved],
                sources,
                [z[0] if one else z for _, z in curved],
                retain_graph=not last,
                allow_unused=True,
                is_grads_batched=not one,
            )
        of_hypers = [
            z.new_zeros(z.shape) if f is None else f.detach().reshape(z.shape)
            for f, z in zip(found[len(parameters) :], along.hypers.unbind(-1), strict=False)
        ]
        return Directions(
            objective.weights.join(found[: len(parameters)], (len(along),)),
            torch.stack(of_hypers, -1) if of_hypers else torch.zeros_like(along.hypers),
        )

    return Linearized(slope, product, symmetric)


def _vjp(
    objective: TrainingLoss, gradients: Gradients, leaves: list[Tensor], adjoint: list[Tensor]
) -> Gradients:
    """(∂g/∂x)ᵀ · a as a function of a, by leaf; g is the gradient by the weights."""
    pairs = zip(gradients, adjoint, strict=False)
    curved = [(g, a) for g, a in pairs if g is not None and g.requires_grad]
    if not curved:
        return [None] * len(leaves)
    with torch.enable_grad(), objective.switched(), without_hooks(objective.weights.parameters):
        return torch.autograd.grad(
            [g for g, _ in curved],
            leaves,
            [a for _, a in curved],
            create_graph=True,
            allow_unused=True,
        )


def forward_over_reverse(
    objective: TrainingLoss, batch: Batch, hypers: Values, kind: Product
) -> Linearized:
    """Products as the forward-mode derivative of g, which is taken once more for it.

    Where the loss stops gradients, which ``torch.func`` would stop for good, double backward
    passes take its place.
    """
    gradient, point = _pure_gradient(objective, batch, hypers)
    weights, stops = objective.weights, Stops()
    before, buffers = GeneratorStates.now(weights.device), buffers_of(objective.model)
    slope = objective.graph(batch, hypers, twice=False, stops=stops)[0]
    if stops.found:
        before.restore()
        put_back(buffers)
        return double_backward(objective, batch, hypers, kind)

    def tangent(of_weights: Tensor, of_hypers: Tensor) -> Tensor:
        parts = dict(zip(weights.names, weights.split(of_weights), strict=True))
        own = dict(zip(objective.learned, of_hypers.unbind(-1), strict=True))
        by_weight, by_hyper = jvp(gradient, point, (parts, own))[1]
        return torch.cat([t.reshape(-1) for t in (*by_weight.values(), *by_hyper.values())])

    def product(along: Directions, last: bool) -> Directions:
        del last
        after = GeneratorStates.now(weights.device)
        before.restore()
        with forward_mode:
            if len(along) == 1:
                found = tangent(along.weights[0], along.hypers[0])[None]
            else:
                found = vmap(tangent, randomness="same")(along.weights, along.hypers)
        after.restore()
        found = found.detach()
        return Directions(found[:, : len(weights)], found[:, len(weights) :])

    return Linearized(slope, product)


def _pure_gradient(
    objective: TrainingLoss, batch: Batch, hypers: Values
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

    def __init__(self, objective: TrainingLoss) -> None:
        super().__init__()
        self.model, self._objective = objective.model, objective

    def forward(self, batch: Batch, hypers: Values) -> Tensor:
        return self._objective(batch, hypers)


WAYS: dict[str, HVPMethod] = {
    "loop": HVPMethod(double_backward, at_once=False),
    "batched": HVPMethod(double_backward, at_once=True),
    "forward": HVPMethod(forward_over_reverse, at_once=False),
    "forward-batched": HVPMethod(forward_over_reverse, at_once=True),
}
