"""How to take Hessian products of a model: tried out on the first batch.

Torch cannot differentiate every operation twice, nor in every way. What works, and is fastest, is
found by trial on the first batch, and remembered for like models while the process lives.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import CellType
from typing import get_args

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from optuna_hypergrad.autodiff.checks import check_loss, check_products, check_state
from optuna_hypergrad.autodiff.kernels import Kernels
from optuna_hypergrad.autodiff.objective import Batch, Objective
from optuna_hypergrad.autodiff.products import Products
from optuna_hypergrad.autodiff.replay.surroundings import Surrounding
from optuna_hypergrad.autodiff.tryout import MOST_ROWS, Found, Tryout, use
from optuna_hypergrad.autodiff.updates.protocol import Values
from optuna_hypergrad.autodiff.validation import Statistics, validating

__all__ = ["Found", "checked_products", "preflight", "use"]

_found: dict[tuple[object, ...], Found] = {}


def checked_products(products: Products) -> Products:
    """``products``, or a ValueError where it is none of the ways."""
    if products not in get_args(Products):
        raise ValueError(f"products must be one of {get_args(Products)}, got {products!r}.")
    return products


def preflight(
    objective: Objective,
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
    objective: Objective, batch: Batch, hypers: Values, statistics: Statistics
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
def _undisturbed(objective: Objective) -> Iterator[None]:
    """Buffers, random numbers, and what the loss runs with, are put back."""
    surrounding = Surrounding(objective.model, objective.weights.device, ())
    before, switched = surrounding.now(), objective.switched
    point = objective.weights.read()
    try:
        yield
    finally:
        objective.switched = switched
        objective.weights.write(point)
        surrounding.restore(before)


def _signature(objective: Objective, batch: Batch) -> tuple[object, ...]:
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
