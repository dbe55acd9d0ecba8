"""How to take Hessian products of a model: tried out on the first batch.

Torch cannot differentiate every operation twice, nor in every way. What works, and is fastest, is
found by trial on the first batch, and remembered for like models while the process lives.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from optuna_hypergrad.autodiff.kernels import (
    Kernels,
    candidates,
    differentiate_twice,
    second_derivatives,
    unsupported,
)
from optuna_hypergrad.autodiff.metering import timed
from optuna_hypergrad.autodiff.objective import Batch, Objective
from optuna_hypergrad.autodiff.products import WAYS, Along, Products, double_backward
from optuna_hypergrad.autodiff.replay.surroundings import Surrounding
from optuna_hypergrad.autodiff.updates.protocol import Values

_TRIED_ROWS, _ROUNDS = 4, 2
_GAIN = 0.85  # another way must take less than this share of the first one's time
# Convolutions and recurrent kernels gain nothing from batching over columns on a CPU and need
# memory for all columns at once; products of small matrices become one larger product.
_HEAVY = (nn.modules.conv._ConvNd, nn.RNNBase)


class Found(NamedTuple):
    """A way to take products, and what has to be replaced in the model for it."""

    way: str
    kernels: Kernels


_found: dict[Hashable, Found] = {}


def checked_products(products: Products) -> Products:
    """``products``, or a ValueError where it is none of the ways."""
    if products not in get_args(Products):
        raise ValueError(f"products must be one of {get_args(Products)}, got {products!r}.")
    return products


def preflight(
    objective: Objective, products: Products, batch: Batch, hypers: Values, rows: int
) -> Found:
    """The fastest way to take ``rows`` products at a time that works and is exact.

    The model's buffers and the random number generators are as before afterwards.

    Args:
        objective: The loss.
        products: A way to be used; ``"auto"`` to choose one.
        batch: A batch to try it on.
        hypers: Values of the hyperparameters of the loss.
        rows: How many products are taken at a time.

    Raises:
        ValueError: If the model cannot be differentiated twice; the message names the module.
    """
    key = (products, *_signature(objective, batch), min(rows, _TRIED_ROWS))
    if key not in _found:
        with _undisturbed(objective):
            trial = _Trial(objective, batch, hypers, min(rows, _TRIED_ROWS))
            _found[key] = trial.given(products) if products != "auto" else trial.fastest()
    return _found[key]


class _Trial:
    """Takes products on one batch in different ways."""

    def __init__(self, objective: Objective, batch: Batch, hypers: Values, rows: int) -> None:
        self._objective, self._batch, self._hypers = objective, batch, hypers
        like = objective.weights.parameters[0]
        self._along = Along(
            torch.randn((rows, len(objective.weights)), dtype=like.dtype, device=like.device),
            torch.randn((rows, len(objective.learned)), dtype=like.dtype, device=like.device),
        )
        self._surrounding = Surrounding(objective.model, like.device, ())
        self._start = self._surrounding.now()

    def given(self, products: str) -> Found:
        """This way, with whatever has to be replaced for it."""
        errors = []
        for kernels in candidates(self._objective.model, self._objective.weights.device):
            found = Found(products, kernels)
            try:
                self._products(found)
                if WAYS[products].linearise is double_backward:
                    self._check_twice(found)
            except RuntimeError as error:
                errors.append(error)
            else:
                return found
        raise ValueError(self._reason(products, errors[0])) from errors[0]

    def fastest(self) -> Found:
        """The fastest way among those that agree with double backward passes."""
        first = self.given("loop")
        expected = self._products(first)
        plain = replace(first.kernels, fused=False)  # for torch.func
        names = [name for name, way in WAYS.items() if len(self._along) > 1 or not way.at_once]
        others = [Found(name, plain) for name in names if name != "loop"]
        works = [first, *(found for found in others if self._agrees(found, expected))]
        times = {found: self._seconds(found) for found in works}
        default = next(found for found in works if found.way == self._default(works))
        best = min(works, key=times.__getitem__)
        return best if times[best] < _GAIN * times[default] else default

    def _default(self, works: list[Found]) -> str:
        heavy = any(isinstance(m, _HEAVY) for m in self._objective.model.modules())
        batched = not heavy and any(found.way == "batched" for found in works)
        return "batched" if batched else "loop"

    def _check_twice(self, found: Found) -> None:
        """Raise a RuntimeError where double backward passes would leave something out."""
        use(self._objective, found)
        self._surrounding.restore(self._start)
        with self._objective.switched():
            loss = self._objective(self._batch, self._hypers)
            differentiate_twice([loss], self._objective.weights.parameters)

    def _products(self, found: Found) -> Tensor:
        """The products as one vector."""
        use(self._objective, found)
        self._surrounding.restore(self._start)
        way = WAYS[found.way]
        products = way(self._objective, self._batch, self._hypers, self._along)[1]
        return torch.cat([products.weights.flatten(), products.hypers.flatten()])

    def _agrees(self, found: Found, expected: Tensor) -> bool:
        """Whether this way works, without a complaint of torch's, and gives the same."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                got = self._products(found)
        except (RuntimeError, Warning):
            return False
        tolerance = torch.finfo(expected.dtype).eps ** 0.5
        return bool((got - expected).norm() <= tolerance * expected.norm())

    def _seconds(self, found: Found) -> float:
        """The best time; products were taken before, so all is warm."""
        return timed(partial(self._products, found), self._objective.weights.device, _ROUNDS)[0]

    def _reason(self, products: str, error: Exception) -> str:
        """What to say where a way does not work."""
        if products != "loop":
            return (
                f"products={products!r} does not work for this model; products='auto' finds what "
                f"does. torch says: {error}"
            )
        objective = self._objective
        self._surrounding.restore(self._start)
        module = unsupported(objective.model, lambda: objective(self._batch, self._hypers))
        return (
            "model: it cannot be differentiated twice, which hypergradients need. "
            + (f"The module is {module}" if module else f"No module by itself is at fault: {error}")
            + " Replace it by operations that torch can differentiate twice."
        )


@contextmanager
def _undisturbed(objective: Objective) -> Iterator[None]:
    """Buffers, random numbers, and what the loss runs with, are put back."""
    surrounding = Surrounding(objective.model, objective.weights.device, ())
    before, switched = surrounding.now(), objective.switched
    try:
        yield
    finally:
        objective.switched = switched
        surrounding.restore(before)


def use(objective: Objective, found: Found) -> None:
    """Have the loss run with what has to be replaced."""
    objective.switched = partial(second_derivatives, found.kernels)


def _signature(objective: Objective, batch: Batch) -> tuple[Hashable, ...]:
    """What like models on like batches have in common."""
    kinds = tuple((name, type(m), m.training) for name, m in objective.model.named_modules())
    weights = tuple((p.shape, p.dtype, p.device) for p in objective.weights.parameters)
    tensors = (leaf for leaf in tree_leaves(batch) if isinstance(leaf, Tensor))
    code = getattr(objective.loss_fn, "__code__", objective.loss_fn)
    return (kinds, weights, tuple((t.shape, t.dtype) for t in tensors), code)
