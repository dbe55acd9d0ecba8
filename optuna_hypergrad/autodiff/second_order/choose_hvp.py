"""How Hessian products are taken, and what is replaced in the model for it.

Torch cannot differentiate every operation twice, nor by every method, so both are tried on the
first batch. Which method is faster is decided by sizes, not by a clock: processes with the same
seed give the same bits.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
from torch import Tensor

from optuna_hypergrad.autodiff.checks.double import direction_at
from optuna_hypergrad.autodiff.data import Batch
from optuna_hypergrad.autodiff.loss import TrainingLoss
from optuna_hypergrad.autodiff.second_order import hvp
from optuna_hypergrad.autodiff.second_order.double_differentiable import (
    differentiate_twice,
    explained,
    nodes,
)
from optuna_hypergrad.autodiff.second_order.switching import Kernels, candidates, switched_to
from optuna_hypergrad.autodiff.snapshot import Snapshotter
from optuna_hypergrad.autodiff.stop_gradient import StopState
from optuna_hypergrad.autodiff.updates.protocol import Values

# The rule of products="auto": "batched" for that many tangents or more where no parameter, and no
# result of an operation of the loss, has more elements; else "loop". CPU time of "batched" over
# that of "loop" for 2, 3 and 8 tangents (float32, one thread), by the elements of the largest:
#   4·10³  MLP 64-64 1.02 0.80 0.42
#   3·10⁴  MLP 784-32 1.05 0.86 0.54 · LeNet, 8 images, 0.94 0.80 0.51
#   1·10⁵  MLP 784-128 1.20 0.85 0.83 · LeNet, 32 images, 1.02 0.94 0.71 · WRN-16-1, 8 images,
#          1.04 0.99 0.94
#   2·10⁵  transformer, 32 × 28 words, 1.20 1.07 1.32
#   4·10⁵  MLP 784-512-512 1.11 1.13 1.09 · LeNet, 128 images, 1.09 0.98 0.96
#   1·10⁶  WRN-16-1, 64 images, 1.21 1.23 1.79
# Forward over reverse was never faster than the better of the two. On GPUs nothing was measured;
# the rule is the same there.
BATCHED_FROM, BATCHED_UP_TO = 3, 2**17

_TOLERANCE = 0.03  # a relative difference between products that rounding does not explain


class Plan(NamedTuple):
    """A method to take Hessian products, and what is replaced in the model for it."""

    method: str
    kernels: Kernels
    switched: Callable[[], AbstractContextManager[object]]  # to these kernels


class FirstBatch:
    """The loss of one batch, differentiated by different methods, each time from the same state."""

    def __init__(self, loss: TrainingLoss, batch: Batch, hparams: Values) -> None:
        self._loss, self._batch, self._hparams = loss, batch, hparams
        self._snapshotter = Snapshotter(loss.model, loss.weights.device)

    def plan(self, products: hvp.Products, many_tangents: bool) -> Plan:
        """The first kernels with which the model can be differentiated twice, and a method.

        Raises:
            ValueError: If there are none, or the method named by ``products`` does not work.
        """
        kernels, largest = self._kernels()
        if products == "auto":
            batched = many_tangents and largest <= BATCHED_UP_TO and self._is_batchable()
            products = "batched" if batched else "loop"
        elif products != "loop":
            self._check_method(products)
        return Plan(products, kernels, switched_to(kernels))

    def fits(self, plan: Plan) -> bool:
        """Whether the loss can be differentiated twice as planned for one like it."""
        self._loss.switched = plan.switched
        try:
            self._differentiate_twice()
        except RuntimeError:  # a new plan says why, or finds other kernels
            return False
        return True

    def _kernels(self) -> tuple[Kernels, int]:
        """What has to be replaced, and the elements of the largest tensor of the loss."""
        loss = self._loss
        error: RuntimeError | None = None
        for kernels in candidates(loss.model, loss.weights.device):
            loss.switched = switched_to(kernels)
            try:
                return kernels, self._differentiate_twice()
            except RuntimeError as reason:
                error = reason
        with loss.switched():  # what can be replaced is not at fault
            message = explained(loss.model, lambda: loss(self._batch, self._hparams), error)
        raise ValueError(message) from error

    def _differentiate_twice(self) -> int:
        """Gives the elements of the largest parameter or result of an operation of the loss."""
        stops = StopState()
        with self._snapshotter.unchanged():
            with self._loss.graph(self._batch, self._hparams, stops) as value:
                results = (m for node in nodes([value]) for m in node._input_metadata)
                sizes = [int(math.prod(m.shape)) for m in results if not m.is_nested_tensor]
                differentiate_twice([value], self._loss.weights.parameters)
            if stops.found:  # then a JVP is the derivative of a VJP, and so a third derivative
                self._products("loop", 1)
        return max(sizes)

    def _is_batchable(self) -> bool:
        """Whether torch can batch the products, and they are those of double backward passes."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # of operations that are not batched, but repeated
                difference = self._difference("batched")
        except (RuntimeError, Warning):  # as in activation checkpointing
            return False
        return bool(difference <= torch.finfo(self._loss.weights.parameters[0].dtype).eps ** 0.5)

    def _check_method(self, method: str) -> None:
        unfit = f"products={method!r} does not work for this model; products='auto' finds what does"
        try:
            difference = self._difference(method)
        except RuntimeError as error:
            raise ValueError(f"{unfit}. Torch says: {error}") from error
        if difference > _TOLERANCE:
            raise ValueError(
                f"{unfit}. It gives products that differ from those of double backward passes by "
                f"{difference:.0%}; its random numbers, such as dropout masks, may differ."
            )

    def _difference(self, method: str) -> float:
        """Between products by a method and by "loop", relative."""
        expected, found = self._products("loop", 2), self._products(method, 2)
        return float((found - expected).norm() / expected.norm().clamp_min(1e-30))

    def _products(self, method: str, n: int) -> Tensor:
        """Products with n directions, as one vector."""
        point = self._loss.weights.read()
        weights = torch.stack([direction_at(point, seed) for seed in range(n)])
        directions = hvp.Directions(weights, weights.new_ones((n, self._loss.n_learned)))
        take = hvp.HVP_METHODS[method]
        with self._snapshotter.unchanged():
            products = take(self._loss, self._batch, self._hparams, directions, "jvp")[1]
        return torch.cat([products.weights.flatten(), products.hparams.flatten()])
