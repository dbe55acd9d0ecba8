"""Hessian-vector products (HVPs): the one costly thing about hypergradients.

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
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vmap

from optuna_hypergrad.autodiff.data import Batch
from optuna_hypergrad.autodiff.loss import LossGrad, TrainingLoss
from optuna_hypergrad.autodiff.snapshot import Snapshotter
from optuna_hypergrad.autodiff.stop_gradient import StopState, without_hooks
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
    """Directions in x, or products with them; of P elements of hyperparameters."""

    weights: Tensor  # shape (N, D)
    hparams: Tensor  # shape (N, P)

    def __len__(self) -> int:
        return len(self.weights)

    def only(self, n: int) -> Directions:
        """One of them."""
        return Directions(self.weights[n : n + 1], self.hparams[n : n + 1])

    @staticmethod
    def mean(parts: Sequence[Directions]) -> Directions:
        """The products with the mean of the Hessians."""
        weights = torch.stack([part.weights for part in parts]).mean(0)
        return Directions(weights, torch.stack([part.hparams for part in parts]).mean(0))


class Linearized(NamedTuple):
    """A batch's training gradient, and the map from directions to products there."""

    loss_grad: LossGrad
    product: Callable[[Directions, bool], Directions]  # True: the last call
    symmetric: bool = True  # else one direction at a time


@dataclass(frozen=True)
class HVPMethod:
    """A method to take Hessian products.

    Args:
        linearize: Differentiates once; its result differentiates again.
        batched: Whether all directions are taken at once, in the memory of as many graphs.
    """

    linearize: Callable[[TrainingLoss, Batch, Values, Product], Linearized]
    batched: bool

    def __call__(
        self,
        loss: TrainingLoss,
        batch: Batch,
        hparams: Values,
        directions: Directions,
        kind: Product,
    ) -> tuple[LossGrad, Directions]:
        """The training gradient of the batch, and its product with each direction.

        Args:
            loss: The training loss.
            batch: The batch that it is taken on.
            hparams: Values of the hyperparameters of the loss.
            directions: ẋ, or a with zeros for the hyperparameters.
            kind: ``"jvp"``, whose result is by the weights alone, or ``"vjp"``.
        """
        n = len(directions)
        if n == 0:
            return loss.loss_grad(batch, hparams), directions
        loss_grad, product, symmetric = self.linearize(loss, batch, hparams, kind)
        if n == 1 or (self.batched and symmetric):
            return loss_grad, product(directions, True)
        products = [product(directions.only(i), i == n - 1) for i in range(n)]
        weights, by_hparams = zip(*((p.weights, p.hparams) for p in products), strict=True)
        return loss_grad, Directions(torch.cat(weights), torch.cat(by_hparams))


def double_backward(loss: TrainingLoss, batch: Batch, hparams: Values, kind: Product) -> Linearized:
    """Products as the derivative of g·ẋ, one backward pass through the graph of g = ∂L/∂x."""
    weights, stops = loss.weights, StopState()
    loss_grad, gradients, leaves = loss.gradients(batch, hparams, twice=True, stops=stops)
    stops.active = False  # g moves with all that it depends on
    symmetric = not stops.found

    def vjp(
        outputs: Gradients,
        sources: list[Tensor],
        vectors: list[Tensor],
        batched: bool = False,
        **options: bool,
    ) -> Gradients:
        pairs = zip(outputs, vectors, strict=False)
        curved = [(g, v) for g, v in pairs if g is not None and g.requires_grad]
        if not curved:
            return [None] * len(sources)
        # Switched, because activation checkpointing runs parts of the model again.
        with loss.switched(), nullcontext() if symmetric else without_hooks(weights.parameters):
            outs, vectors = ([pair[i] for pair in curved] for i in (0, 1))
            if not batched:
                return torch.autograd.grad(outs, sources, vectors, allow_unused=True, **options)

            def of_one(*vectors: Tensor) -> tuple[Tensor, ...]:
                return torch.autograd.grad(
                    outs, sources, vectors, allow_unused=True, materialize_grads=True, **options
                )

            found: Gradients = vmap(of_one)(*vectors)  # is_grads_batched lacks rules that it has
            return found

    outputs, sources = gradients, leaves
    if kind == "jvp" and not symmetric:  # the derivative of the VJP by a
        sources = [torch.zeros_like(p, requires_grad=True) for p in weights.parameters]
        with torch.enable_grad():
            outputs = vjp(gradients, leaves, sources, create_graph=True)

    def product(directions: Directions, last: bool) -> Directions:
        n = len(directions)
        of_weights, of_hparams = directions.weights, directions.hparams
        if n == 1:  # without the dimension of the directions
            of_weights, of_hparams = of_weights[0], of_hparams[0]
        batch = of_weights.shape[:-1]
        vectors = [*weights.split(of_weights), *loss.split(of_hparams)]
        found = vjp(outputs, sources, vectors, n > 1, retain_graph=not last)
        n_weights = len(weights.parameters)
        by_hparam = [
            (torch.zeros_like(h) if f is None else f.detach()).reshape(*batch, -1)
            for f, h in zip(found[n_weights:], vectors[n_weights:], strict=False)
        ]
        products = weights.join(found[:n_weights], batch)
        by_hparams = torch.cat(by_hparam, -1) if by_hparam else torch.zeros_like(of_hparams)
        shape = (n, -1)
        return Directions(
            products.reshape(shape), by_hparams.reshape(n, len(directions.hparams[0]))
        )

    return Linearized(loss_grad, product, symmetric)


def forward_over_reverse(
    loss: TrainingLoss, batch: Batch, hparams: Values, kind: Product
) -> Linearized:
    """Products as the forward-mode derivative of g, which is taken once more for it.

    Where the loss stops gradients, which ``torch.func`` would stop for good, double backward
    passes take its place.
    """
    weights, stops = loss.weights, StopState()
    snapshotter = Snapshotter(loss.model, weights.device)
    before = snapshotter.now()
    gradient, point = _pure_gradient(loss, batch, hparams)
    loss_grad = loss.gradients(batch, hparams, twice=False, stops=stops)[0]
    if stops.found:
        snapshotter.restore(before)
        return double_backward(loss, batch, hparams, kind)

    def tangent(of_weights: Tensor, of_hparams: Tensor) -> Tensor:
        parts = dict(zip(weights.names, weights.split(of_weights), strict=True))
        own = dict(zip(loss.learned, loss.split(of_hparams), strict=True))
        by_weight, by_hparam = jvp(gradient, point, (parts, own))[1]
        return torch.cat([t.reshape(-1) for t in (*by_weight.values(), *by_hparam.values())])

    def product(directions: Directions, last: bool) -> Directions:
        del last
        with forward_mode, snapshotter.unchanged():
            before.generators.restore()
            if len(directions) == 1:
                found = tangent(directions.weights[0], directions.hparams[0])[None]
            else:
                batched = vmap(tangent, randomness="same")
                found = batched(directions.weights, directions.hparams)
        found = found.detach()
        return Directions(found[:, : len(weights)], found[:, len(weights) :])

    return Linearized(loss_grad, product)


def _pure_gradient(
    loss: TrainingLoss, batch: Batch, hparams: Values
) -> tuple[Callable[..., Any], tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """∂L/∂x as a function that leaves nothing behind, and the x to take it at."""
    called = _Called(loss)
    buffers = {f"model.{k}": b.clone() for k, b in loss.model.named_buffers()}
    point = (
        {k: p.detach() for k, p in loss.weights.named.items()},
        {k: torch.as_tensor(hparams[k]).detach() for k in loss.learned},
    )

    def value(weights: dict[str, Tensor], own: dict[str, Tensor]) -> Tensor:
        state = {f"model.{k}": w for k, w in weights.items()}
        state |= {k: b.clone() for k, b in buffers.items()}
        with loss.switched():
            result: Tensor = functional_call(called, state, (batch, {**hparams, **own}))
        return result

    return grad(value, argnums=(0, 1)), point


class _Called(nn.Module):
    """The loss as a module, so that the model's weights in it can be exchanged."""

    def __init__(self, loss: TrainingLoss) -> None:
        super().__init__()
        self.model, self._loss = loss.model, loss

    def forward(self, batch: Batch, hparams: Values) -> Tensor:
        return self._loss(batch, hparams)


HVP_METHODS: dict[str, HVPMethod] = {
    "loop": HVPMethod(double_backward, batched=False),
    "batched": HVPMethod(double_backward, batched=True),
    "forward": HVPMethod(forward_over_reverse, batched=False),
    "forward-batched": HVPMethod(forward_over_reverse, batched=True),
}
