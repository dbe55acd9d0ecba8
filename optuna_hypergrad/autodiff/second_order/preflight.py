"""Hessian products of one batch, taken in different ways to see which work and how fast.

How to take Hessian products of a model: tried out on the first batch.

Torch cannot differentiate every operation twice, nor in every way. What works, and is fastest, is
found by trial on the first batch, and remembered for like models while the process lives.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import CellType
from typing import NamedTuple, get_args

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from optuna_hypergrad.autodiff.checks import check_loss, check_products, check_state
from optuna_hypergrad.autodiff.loss import Batch, TrainingLoss
from optuna_hypergrad.autodiff.result import timed
from optuna_hypergrad.autodiff.second_order import (
    Kernels,
    candidates,
    differentiate_twice,
    second_derivatives,
    unsupported,
)
from optuna_hypergrad.autodiff.second_order.hvp import (
    WAYS,
    Directions,
    Products,
    forward_over_reverse,
)
from optuna_hypergrad.autodiff.snapshot import Snapshotter
from optuna_hypergrad.autodiff.stop_gradient import StopGradients, Stops
from optuna_hypergrad.autodiff.updates.protocol import Values
from optuna_hypergrad.autodiff.validation import Statistics, validating

_QUICK = 0.002  # seconds that the gradient of a quick model takes at most
MOST_ROWS, _FEW_ROWS = 8, 2  # that are tried; of a quick model, and of any other
_ROUNDS = 6, 1  # that are timed, likewise
_HOPELESS = 4.0, 1.5  # a way that takes so many times as long at first is not timed, likewise
_GAIN = 0.85  # another way must take less than this share of the time of double backward passes

_NO_ROUNDING = 0.03  # a relative difference between products that rounding does not explain

_DIFFERENT = (
    "It gives products that differ from those of double backward passes by {:.0%}; its random "
    "numbers, those of dropout for example, may be others."
)
# What to do, by a part of what torch says.
_ADVICE = {
    "@once_differentiable": "Write its backward in operations of torch's and take the mark off.",
    "its gradient is sparse": "Pass sparse=False to nn.Embedding or nn.EmbeddingBag.",
    "use_reentrant": "Pass use_reentrant=False to torch.utils.checkpoint.checkpoint.",
    "not implemented": "Write it in other operations of torch's.",
}
_ANYWAY = "Replace it by operations that torch can differentiate twice."


class Found(NamedTuple):
    """A way to take products, and what has to be replaced in the model for it."""

    way: str
    kernels: Kernels


def use(objective: TrainingLoss, found: Found) -> None:
    """Have the loss run with what has to be replaced."""
    objective.switched = partial(second_derivatives, found.kernels)


class Tryout:
    """Takes products on one batch in different ways.

    The model's buffers and the random number generators are those that it began with whenever a
    way is tried; whoever makes it puts them back in the end, and ``objective.switched``, too.

    Args:
        objective: The loss.
        batch: The batch.
        hypers: Values of the hyperparameters of the loss.
        rows: How many products are taken at a time, ``MOST_ROWS`` at most.
    """

    def __init__(self, objective: TrainingLoss, batch: Batch, hypers: Values, rows: int) -> None:
        self._objective, self._batch, self._hypers = objective, batch, hypers
        self._device, self._like = objective.weights.device, objective.weights.parameters[0]
        self._snapshotter = Snapshotter(objective.model, self._device, ())
        self._start = self._snapshotter.now()
        self._rows = rows

    def obstacle(self, kernels: Kernels) -> RuntimeError | None:
        """What torch says where the loss, or a part of it, cannot be differentiated twice."""
        self._begin(kernels)
        stops = Stops()
        try:
            with torch.enable_grad(), self._objective.switched():
                with StopGradients(stops):
                    loss = self._objective.differentiable(self._batch, self._hypers)
                differentiate_twice([loss], self._objective.weights.parameters)
                stops.forget()
            if stops.found:  # then a JVP is the derivative of a VJP, and so a third derivative
                self._products(Found("loop", kernels), self._along(1))
        except RuntimeError as error:
            return error
        return None

    def given(self, way: str) -> Found:
        """This way, if it gives what double backward passes give; else a ValueError."""
        first = self._double_backward()
        if way == "loop":
            return first
        found, along = Found(way, first.kernels), self._along(self._rows)
        expected = self._products(first, along)
        try:
            difference = _difference(self._products(found, along), expected)
        except RuntimeError as error:
            raise ValueError(_unfit(way, f"Torch says: {error}")) from error
        if difference > _NO_ROUNDING:
            raise ValueError(_unfit(way, _DIFFERENT.format(difference)))
        return found

    def fastest(self) -> Found:
        """Double backward passes, or what is clearly faster and gives the same."""
        best = first = self._double_backward()
        quick = timed(self._gradient, self._device, 2)[0] < _QUICK
        along = self._along(self._rows if quick else min(self._rows, _FEW_ROWS))
        rounds, hopeless = _ROUNDS[not quick], _HOPELESS[not quick]
        expected = self._products(first, along)
        reference = self._seconds(first, along, rounds)
        least = _GAIN * reference
        for name, way in WAYS.items():
            if name == "loop" or (way.at_once and len(along) == 1):
                continue
            if way.linearise is forward_over_reverse and not quick:
                continue  # it takes more memory than the run may have, and has never paid
            found = Found(name, first.kernels)
            if self._first_seconds(found, along, expected) < hopeless * reference:
                seconds = self._seconds(found, along, rounds)
                best, least = (found, seconds) if seconds < least else (best, least)
        return best

    def _double_backward(self) -> Found:
        """Double backward passes, with whatever has to be replaced for them."""
        error: RuntimeError | None = None
        for kernels in candidates(self._objective.model, self._device):
            error = self.obstacle(kernels)
            if error is None:
                return Found("loop", kernels)
        raise ValueError(self._blame(error)) from error

    def _blame(self, error: RuntimeError | None) -> str:
        """What to say of a model that cannot be differentiated twice, whatever is replaced."""
        self._snapshotter.restore(self._start)
        with self._objective.switched():  # what can be replaced is not to blame
            module = unsupported(self._objective.model, self._run)
        told = f"The module is {module}"
        if module is None:
            told = f"None of its modules is at fault by itself; see to what loss_fn calls: {error}"
        advice = next((what for part, what in _ADVICE.items() if part in told), _ANYWAY)
        return (
            "model: it has no second derivative, which hypergradients need. "
            f"{told.rstrip('.')}. {advice}"
        )

    def _first_seconds(self, found: Found, along: Directions, expected: Tensor) -> float:
        """Seconds of a first round; infinite where it fails, complains or gives anything else."""
        got: list[Tensor] = []

        def work() -> None:
            got.append(self._products(found, along))

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                seconds = timed(work, self._device, 1)[0]
        except Exception:  # whatever it is: this way is out, and another one works
            return math.inf
        exact = _difference(got[0], expected) <= torch.finfo(expected.dtype).eps ** 0.5
        return seconds if exact else math.inf

    def _seconds(self, found: Found, along: Directions, rounds: int) -> float:
        """The best time of a way that has been taken before, so that all is warm."""
        return timed(partial(self._products, found, along), self._device, rounds)[0]

    def _products(self, found: Found, along: Directions) -> Tensor:
        """The products as one vector."""
        self._begin(found.kernels)
        objective, batch, hypers = self._objective, self._batch, self._hypers
        products = WAYS[found.way](objective, batch, hypers, along, "jvp")[1]
        return torch.cat([products.weights.flatten(), products.hypers.flatten()])

    def _gradient(self) -> None:
        self._objective.slope(self._batch, self._hypers)

    def _run(self) -> Tensor:
        return self._objective(self._batch, self._hypers)

    def _begin(self, kernels: Kernels) -> None:
        use(self._objective, Found("loop", kernels))
        self._snapshotter.restore(self._start)

    def _along(self, rows: int) -> Directions:
        """Random directions."""
        like, learned = self._like, self._objective.learned
        return Directions(
            torch.randn((rows, len(self._objective.weights)), dtype=like.dtype, device=like.device),
            torch.randn((rows, len(learned)), dtype=like.dtype, device=like.device),
        )


def _difference(found: Tensor, expected: Tensor) -> float:
    """Relative to what was expected."""
    return float((found - expected).norm() / expected.norm().clamp_min(1e-30))


def _unfit(way: str, reason: str) -> str:
    return (
        f"products={way!r} does not work for this model; products='auto' finds what does. {reason}"
    )


__all__ = ["Found", "checked_products", "preflight", "use"]

_found: dict[tuple[object, ...], Found] = {}


def checked_products(products: Products) -> Products:
    """``products``, or a ValueError where it is none of the ways."""
    if products not in get_args(Products):
        raise ValueError(f"products must be one of {get_args(Products)}, got {products!r}.")
    return products


def preflight(
    objective: TrainingLoss,
    products: Products,
    batch: Batch,
    hypers: Values,
    rows: int,
    constant_buffers: Collection[str] = (),
) -> Found:
    """The fastest way to take ``rows`` products at a time that works and is exact.

    Exact is what gives the same as double backward passes, one row after another, and these are
    taken where no other way is clearly faster. The training is checked, too (checks/).
    Where a model is like an earlier one, all that is tried is whether it can be differentiated
    twice. The model's buffers and the random number generators are as before afterwards.

    Args:
        objective: The loss.
        products: A way to be used; ``"auto"`` to choose one.
        batch: A batch to try it on.
        hypers: Values of the hyperparameters of the loss.
        rows: How many products are taken at a time.
        constant_buffers: Buffers whose dependence on the weights is left out.

    Raises:
        ValueError: If the model cannot be differentiated twice; the message names the module. If
            ``products`` is a way that fails for this model, or is not exact. If the training is
            none whose derivative these products give; see checks/.
    """
    rows = min(rows, MOST_ROWS)
    key = (products, rows, frozenset(constant_buffers), *_signature(objective, batch))
    with _undisturbed(objective):
        tryout = Tryout(objective, batch, hypers, rows)
        if key not in _found or tryout.obstacle(_found[key].kernels):
            with suppress(RuntimeError):  # what torch cannot do is named by what is tried next
                check_state(objective, batch, hypers, constant_buffers)
            found = tryout.fastest() if products == "auto" else tryout.given(products)
            use(objective, found)
            check_products(objective, batch, hypers)
            _found[key] = found
    return _found[key]


def check_validation(
    objective: TrainingLoss, batch: Batch, hypers: Values, statistics: Statistics
) -> None:
    """Raise a ValueError where the validation loss cannot be differentiated as it is computed.

    Args:
        objective: The validation loss.
        batch: A batch of the training, which stands for those of the validation.
        hypers: Values of the hyperparameters of the loss.
        statistics: What batch norm normalises with.
    """
    key = ("validation", statistics, *_signature(objective, batch))
    if key not in _found:
        with _undisturbed(objective), validating(objective.model, statistics):
            check_loss(objective, batch, hypers)
        _found[key] = Found("loop", Kernels())


@contextmanager
def _undisturbed(objective: TrainingLoss) -> Iterator[None]:
    """Buffers, random numbers, and what the loss runs with, are put back."""
    snapshotter = Snapshotter(objective.model, objective.weights.device, ())
    before, switched = snapshotter.now(), objective.switched
    point = objective.weights.read()
    try:
        yield
    finally:
        objective.switched = switched
        objective.weights.write(point)
        snapshotter.restore(before)


def _signature(objective: TrainingLoss, batch: Batch) -> tuple[object, ...]:
    """What like models on like batches have in common."""
    model, loss_fn = objective.model, objective.loss_fn
    kinds = tuple((name, type(m), m.training) for name, m in model.named_modules())
    weights = tuple((p.shape, p.dtype, p.device) for p in objective.weights.parameters)
    tensors = (leaf for leaf in tree_leaves(batch) if isinstance(leaf, Tensor))
    shapes = tuple((t.shape, t.dtype) for t in tensors)
    hooks = tuple(bool(m._backward_hooks or m._forward_hooks) for m in model.modules())
    hooks += tuple(bool(p._backward_hooks) for p in objective.weights.parameters)
    return (kinds, weights, shapes, hooks, _code(loss_fn), torch.get_num_threads())


def _code(function: object, depth: int = 3) -> object:
    """What a function does. Not the function itself: it may hold data, and each trial makes one."""
    if isinstance(function, str | bool | None):
        return function
    parts: list[object] = []
    if isinstance(function, partial):
        parts = [function.func, *function.args, *function.keywords, *function.keywords.values()]
    elif cells := getattr(function, "__closure__", None):
        parts = [cell.cell_contents for cell in cells if _is_filled(cell)]
    code = getattr(function, "__code__", type(function))
    return (code, *(_code(part, depth - 1) for part in parts if depth))


def _is_filled(cell: CellType) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:  # of a name that has yet to be bound
        return False
    return True
