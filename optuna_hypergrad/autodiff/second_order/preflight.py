"""What is found out about a training before it begins, on its first batch.

Torch cannot differentiate every operation twice, nor every loss is what hypergradients take it for.
The preflight finds what has to be replaced so that the model can be differentiated twice, checks
the training (checks/), and picks how Hessian products are taken. The answer is remembered for like
models while the process lives. It reads no clock, so equal processes come to equal answers.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from typing import NamedTuple, get_args

import torch
from torch import Tensor

from optuna_hypergrad.autodiff import checks
from optuna_hypergrad.autodiff.loss import Batch, TrainingLoss
from optuna_hypergrad.autodiff.second_order.double_differentiable import (
    differentiate_twice,
    explained,
    largest_tensor,
)
from optuna_hypergrad.autodiff.second_order.hvp import (
    HVP_METHODS,
    Directions,
    HVPMethod,
    Products,
)
from optuna_hypergrad.autodiff.second_order.signature import kind_of, signature_of
from optuna_hypergrad.autodiff.second_order.switching import (
    Kernels,
    candidates,
    second_derivatives,
)
from optuna_hypergrad.autodiff.snapshot import Snapshotter
from optuna_hypergrad.autodiff.stop_gradient import StopState
from optuna_hypergrad.autodiff.updates import Update
from optuna_hypergrad.autodiff.updates.protocol import Values
from optuna_hypergrad.autodiff.validation import Statistics, validating

# The rule of products="auto": "batched" for that many tangents or more, where no parameter and no
# result of an operation of the loss has more elements; else "loop". CPU time of "batched" over that
# of "loop" (float32, one thread), by the elements of the largest tensor:
#   tangents:              2     8 |                        tangents:   2     8
#   MLP 20-…-20 (4·10³)  0.88  0.39 | LeNet, 8 images      (5·10⁴)    1.15  0.84
#   MLP 64-64 (4·10³)    0.96  0.48 | MLP 784-32           (5·10⁴)    0.93  0.61
#   batch norm (4·10³)   0.81  0.39 | MLP 784-128          (1·10⁵)    1.00  1.39
#   transformer (4·10³)  0.91  0.47 | transformer, 64 × 64 (1·10⁵)    0.95  1.29
#   MLP 256-128 (3·10⁴)  1.03  0.64 | WRN-16-1, 16 images  (3·10⁵)    1.04  1.16
#   transformer (3·10⁴)  1.06  0.84 | small CNN, 128 images (2·10⁶)   0.96  2.07
# Forward over reverse took 1.1 to 8 times as long as "loop" for each of them. On GPUs nothing was
# measured, and the rule is the same.
BATCHED_FROM, BATCHED_UP_TO = 3, 2**16

_TOLERANCE = 0.03  # a relative difference between products that rounding does not explain
_UNFIT = "products={!r} does not work for this model; products='auto' finds what does. {}"


class Plan(NamedTuple):
    """How Hessian products are taken, and what is replaced in the model for it."""

    method: str
    kernels: Kernels
    used: frozenset[str] = frozenset()  # learned hyperparameters that the loss depends on


_plans: dict[object, Plan] = {}
_passed: set[object] = set()  # other checks


def checked_products(products: Products) -> Products:
    """``products``, or a ValueError where it is none of the methods."""
    if products not in get_args(Products):
        raise ValueError(f"products must be one of {get_args(Products)}, got {products!r}.")
    return products


def preflight(
    loss: TrainingLoss,
    products: Products,
    batch: Batch,
    hparams: Values,
    n_tangents: int,
    constant_buffers: Collection[str] = (),
) -> HVPMethod:
    """Have a loss run so that it can be differentiated twice; gives how to take its products.

    The model, its buffers and the random number generators are as before afterwards.

    Args:
        loss: The training loss; its ``switched`` is set.
        products: A method to be used; ``"auto"`` to choose one.
        batch: A batch to try it on.
        hparams: Values of the hyperparameters of the loss.
        n_tangents: How many products are taken at a time.
        constant_buffers: Buffers whose dependence on the weights is left out.

    Raises:
        ValueError: If the model cannot be differentiated twice; the message names the module. If
            ``products`` is a method that fails for this model, or is not exact. If the training is
            none whose derivative these products give; see checks/.
    """
    several, constant = n_tangents >= BATCHED_FROM, frozenset(constant_buffers)
    key = (products, several, constant, signature_of(loss, batch, hparams))
    if key not in _plans:
        with torch.enable_grad(), _unchanged(loss):
            with suppress(RuntimeError):  # what torch cannot do is named by what is tried next
                checks.check_state(loss, batch, hparams, constant)
            plan = _Trials(loss, batch, hparams).plan(products, several)
            _switch(loss, plan.kernels)
            checks.check_products(loss, batch, hparams)
        _plans[key] = plan._replace(used=frozenset(loss.used))
    plan = _plans[key]
    _switch(loss, plan.kernels)
    loss.used |= plan.used
    return HVP_METHODS[plan.method]


def check_validation(
    loss: TrainingLoss, batch: Batch, hparams: Values, statistics: Statistics
) -> None:
    """Raise a ValueError where the validation loss cannot be differentiated as it is computed.

    Args:
        loss: The validation loss.
        batch: A batch of the training, which stands for those of the validation.
        hparams: Values of the hyperparameters of the loss.
        statistics: What batch norm normalises with.
    """
    key = (statistics, signature_of(loss, batch, hparams))
    if key not in _passed:
        with torch.enable_grad(), _unchanged(loss), validating(loss.model, statistics):
            checks.check_loss(loss, batch, hparams)
        _passed.add(key)


def check_update(update: Update, weights: Tensor, hparams: Values) -> None:
    """Raise a ValueError where the update cannot be differentiated as it is computed.

    Args:
        update: The update.
        weights: Weights to take steps from, shape (D,).
        hparams: Values of its hyperparameters; tensors are learned.
    """
    values = tuple((name, kind_of(v), bool(v)) for name, v in hparams.items())
    key = (kind_of(update, depth=5), kind_of(weights), values)
    if key not in _passed and checks.check_update_map(update, weights, hparams):
        _passed.add(key)


def _switch(loss: TrainingLoss, kernels: Kernels) -> None:
    needed = kernels != Kernels()
    loss.switched = partial(second_derivatives, kernels) if needed else nullcontext


@contextmanager
def _unchanged(loss: TrainingLoss) -> Iterator[None]:
    """Put back the weights, all of a snapshot, and what the loss runs with."""
    point, switched = loss.weights.read(), loss.switched
    with Snapshotter(loss.model, loss.weights.device).unchanged():
        try:
            yield
        finally:
            loss.switched = switched
            loss.weights.write(point)


class _Trials:
    """Differentiates the loss of one batch in different ways, each from the same state."""

    def __init__(self, loss: TrainingLoss, batch: Batch, hparams: Values) -> None:
        self._loss, self._batch, self._hparams = loss, batch, hparams
        self._snapshotter = Snapshotter(loss.model, loss.weights.device)

    def plan(self, products: Products, several: bool) -> Plan:
        """The first kernels with which the model can be differentiated twice, and a method."""
        kernels, largest = self._kernels()
        if products == "auto":
            batched = several and largest <= BATCHED_UP_TO and self._is_batchable()
            return Plan("batched" if batched else "loop", kernels)
        if products != "loop":
            self._check_method(products)
        return Plan(products, kernels)

    def _kernels(self) -> tuple[Kernels, int]:
        """What has to be replaced, and the elements of the largest tensor of the loss."""
        loss = self._loss
        error: RuntimeError | None = None
        for kernels in candidates(loss.model, loss.weights.device):
            _switch(loss, kernels)
            try:
                return kernels, self._differentiate_twice()
            except RuntimeError as reason:
                error = reason
        with loss.switched():  # what can be replaced is not at fault
            message = explained(loss.model, lambda: loss(self._batch, self._hparams), error)
        raise ValueError(message) from error

    def _differentiate_twice(self) -> int:
        stops = StopState()
        with self._snapshotter.unchanged():
            with self._loss.graph(self._batch, self._hparams, stops) as value:
                largest = largest_tensor(value)
                differentiate_twice([value], self._loss.weights.parameters)
            if stops.found:  # then a JVP is the derivative of a VJP, and so a third derivative
                self._products("loop", 1)
        return largest

    def _is_batchable(self) -> bool:
        """Whether torch can batch the products, and they are those of double backward passes."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # of operations that are not batched, but repeated
                difference = self._difference("batched")
        except (RuntimeError, UserWarning):  # as in activation checkpointing
            return False
        return bool(difference <= torch.finfo(self._loss.weights.parameters[0].dtype).eps ** 0.5)

    def _check_method(self, method: str) -> None:
        reason = (
            "It gives products that differ from those of double backward passes by {:.0%}; its "
            "random numbers, those of dropout for example, may be others."
        )
        try:
            difference = self._difference(method)
        except RuntimeError as error:
            raise ValueError(_UNFIT.format(method, f"Torch says: {error}")) from error
        if difference > _TOLERANCE:
            raise ValueError(_UNFIT.format(method, reason.format(difference)))

    def _difference(self, method: str) -> float:
        """Between products by a method and by "loop", relative."""
        expected, found = self._products("loop", 2), self._products(method, 2)
        return float((found - expected).norm() / expected.norm().clamp_min(1e-30))

    def _products(self, method: str, n: int) -> Tensor:
        """Products with n directions, as one vector."""
        point, learned = self._loss.weights.read(), self._loss.learned
        weights = torch.stack([checks.direction_at(point, seed) for seed in range(n)])
        directions = Directions(weights, weights.new_ones((n, len(learned))))
        with self._snapshotter.unchanged():
            hvp = HVP_METHODS[method]
            products = hvp(self._loss, self._batch, self._hparams, directions, "jvp")[1]
        return torch.cat([products.weights.flatten(), products.hparams.flatten()])
