"""Checks of a training on its first batch, before it begins.

They choose how Hessian products are taken (choose_hvp.py), and compare derivatives (checks/). Their
results are remembered for like models in this process. A signature says which are alike, by the
kinds of tensors, the code of functions and the attributes of objects; it holds no data. Where it
leaves out something that the loss may branch on, it is tried again in every run whether the loss
can be differentiated twice.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from itertools import chain, islice
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from optuna_hypergrad.autodiff.checks import derivative, state
from optuna_hypergrad.autodiff.data import Batch
from optuna_hypergrad.autodiff.loss import Statistics, TrainingLoss, validating
from optuna_hypergrad.autodiff.second_order import hvp
from optuna_hypergrad.autodiff.second_order.choose_hvp import BATCHED_FROM, FirstBatch, Plan
from optuna_hypergrad.autodiff.snapshot import Snapshotter
from optuna_hypergrad.autodiff.updates import (
    SGD,
    Adam,
    AdamW,
    Averaged,
    Clipped,
    ParameterGroups,
    Update,
)
from optuna_hypergrad.autodiff.updates.protocol import Values

_plans: dict[object, Plan] = {}
_passed: dict[object, None] = {}  # other checks
_MOST = 1000  # results to remember; losses that capture a trial number are never alike
_LONG = 64  # elements of a container that a signature holds
_LARGE = 2**16
_BOOKKEEPING = frozenset(vars(nn.Module()))  # attributes that every module has
_PLAIN = (str, int, type, CodeType, torch.dtype, torch.device)
_STATELESS = frozenset({"torch", "numpy", "math", "optuna_hypergrad"})  # modules without own flags
_OUR_UPDATES = (Adam, AdamW, Averaged, Clipped, ParameterGroups, SGD)


def preflight(
    loss: TrainingLoss,
    products: hvp.Products,
    batch: Batch,
    hparams: Values,
    n_tangents: int,
    constant_buffers: Collection[str] = (),
) -> hvp.HVPMethod:
    """Check a training, set its loss up to be differentiated twice, and choose how.

    Afterwards the model, its buffers and the random number generators are as before.

    Args:
        loss: The training loss; its ``switched`` is set.
        products: The method, or ``"auto"`` to choose one.
        batch: The batch to try it on.
        hparams: Values of the hyperparameters of the loss.
        n_tangents: How many products are taken at a time.
        constant_buffers: Buffers whose dependence on the weights is left out.

    Raises:
        ValueError: If the model cannot be differentiated twice; the message names the module. If
            ``products`` names a method that fails for this model or is not exact. If a check of
            the training fails; see checks/.
    """
    many_tangents, constant = n_tangents >= BATCHED_FROM, frozenset(constant_buffers)
    signature, is_complete = signature_of(loss, batch, hparams)
    key = (products, many_tangents, constant, signature)
    plan = _plans.get(key)
    if plan is None or not is_complete:
        with torch.enable_grad(), _unchanged(loss):
            first = FirstBatch(loss, batch, hparams)
            if plan is None or not first.fits(plan):
                with suppress(RuntimeError):  # of torch, which the next line explains
                    state.check_state(loss, batch, hparams, constant)
                plan = first.plan(products, many_tangents)
                loss.switched = plan.switched
                derivative.check_products(loss, batch, hparams)
                _remember(_plans, key, plan)
    loss.switched = plan.switched
    return hvp.HVP_METHODS[plan.method]


def check_validation(
    loss: TrainingLoss, batch: Batch, hparams: Values, statistics: Statistics
) -> None:
    """Raise a ValueError where the validation loss cannot be differentiated as it is computed.

    ``batch`` is one of the training, which stands for those of the validation.
    """
    key = (statistics, signature_of(loss, batch, hparams)[0])
    if key not in _passed:
        with torch.enable_grad(), _unchanged(loss), validating(loss.model, statistics):
            derivative.check_loss(loss, batch, hparams)
        _remember(_passed, key, None)


def check_update(update: Update, weights: Tensor, hparams: Values) -> None:
    """Raise a ValueError where the update cannot be differentiated as it is computed.

    The user's are checked in every run; for updates of this package, what it says is remembered.
    """
    custom: object = update
    while type(custom) in _OUR_UPDATES:
        custom = getattr(custom, "update", None)  # what it wraps
    if custom is not None:
        derivative.check_update_map(update, weights, hparams)
        return
    values = tuple((name, torch.is_tensor(value), bool(value)) for name, value in hparams.items())
    key = (_Kinds().of([update, weights], depth=6), values)
    if key not in _passed and derivative.check_update_map(update, weights, hparams):
        _remember(_passed, key, None)


def _remember(answers: dict[object, Any], key: object, answer: Any) -> None:
    answers[key] = answer
    if len(answers) > _MOST:
        answers.pop(next(iter(answers)), None)  # the oldest


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


def signature_of(loss: TrainingLoss, batch: Batch, hparams: Values) -> tuple[object, bool]:
    """What like losses on like batches have in common; hashable. And whether it is complete."""
    model, weights = loss.model, loss.weights
    kinds = _Kinds()
    kind_of = kinds.of
    signature = (
        kinds.of_modules(model),
        tuple((name, kind_of(p), bool(p._backward_hooks)) for name, p in weights.named.items()),
        tuple((name, kind_of(b)) for name, b in model.named_buffers()),
        tuple(map(kind_of, tree_leaves(batch))),
        tuple((n, kind_of(v), bool(torch.as_tensor(v).any())) for n, v in hparams.items()),
        kind_of(loss.loss_fn),
        torch.is_autocast_enabled(weights.device.type),
        "torch._dynamo" in sys.modules,  # else nothing can have been compiled yet
    )
    return signature, kinds.are_complete and not hparams


class _Kinds:
    """What is equal for like values.

    A float varies from trial to trial, so it only counts whether it is zero, as a rate of dropout
    may be; a large int is an id. Functions count by their code, by what they have captured, and by
    the globals that they name. ``are_complete`` says whether nothing was left out.
    """

    def __init__(self) -> None:
        self.are_complete = True

    def of(self, value: Any, depth: int = 3) -> object:
        """A hashable key; objects are followed ``depth`` levels deep."""
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, float) or (isinstance(value, int) and value > _LARGE):
            return self._incomplete(type(value), value == 0)
        if isinstance(value, str) and len(value) > _LONG:
            return hash(value)
        if value is None or isinstance(value, _PLAIN):
            return value
        if isinstance(value, Tensor):
            shape = None if value.is_nested else value.shape
            return (type(value), value.dtype, value.device, value.layout, shape)
        if isinstance(value, BuiltinFunctionType):
            return (value.__module__, value.__qualname__)
        if isinstance(value, ModuleType):
            is_known = value.__name__.partition(".")[0] in _STATELESS
            return value.__name__ if is_known else self._incomplete(value.__name__)
        if depth == 0:
            return self._incomplete(type(value), getattr(value, "__code__", None))
        if isinstance(value, nn.Module):
            return self.of_modules(value, depth - 1)
        return (type(value), *(self.of(part, depth - 1) for part in self._parts(value)))

    def of_modules(self, module: nn.Module, depth: int = 2) -> object:
        """The key of a module and its submodules, without parameters and buffers."""
        return tuple((name, self._of_module(one, depth)) for name, one in module.named_modules())

    def _of_module(self, module: nn.Module, depth: int) -> object:
        hooks = (
            module._forward_pre_hooks,
            module._forward_hooks,
            module._backward_pre_hooks,
            module._backward_hooks,
        )
        attributes = (item for item in vars(module).items() if item[0] not in _BOOKKEEPING)
        return (
            type(module),
            module.training,
            tuple((name, self.of(value, depth)) for name, value in attributes),
            *(self.of(list(hook.values())) for hook in hooks if hook),
        )

    def _parts(self, value: Any) -> Iterator[Any]:
        if isinstance(value, Mapping | list | tuple | set | frozenset):
            self.are_complete &= len(value) <= _LONG
            yield len(value)
            yield from islice(value, _LONG)
            if isinstance(value, Mapping):
                yield from islice(value.values(), _LONG)
        elif isinstance(value, partial):
            yield from (value.func, value.args, value.keywords)
        elif isinstance(value, MethodType):
            yield from (value.__func__, value.__self__)
        elif isinstance(value, FunctionType):
            yield from (value.__code__, value.__defaults__, value.__kwdefaults__)
            yield from (_content(cell) for cell in value.__closure__ or ())
            names = (name for name in value.__code__.co_names if name in value.__globals__)
            yield from (value.__globals__[name] for name in names)
        else:
            slots = [
                name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())
            ]
            attributes = {name: getattr(value, name, None) for name in slots}
            attributes |= getattr(value, "__dict__", {})
            self.are_complete &= bool(attributes)
            yield from chain.from_iterable(attributes.items())

    def _incomplete(self, *key: object) -> object:
        self.are_complete = False
        return key


def _content(cell: CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # of a name that has yet to be bound
        return None
