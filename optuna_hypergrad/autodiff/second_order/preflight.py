"""Checks of a training on its first batch, before it begins.

They choose how Hessian products are taken (choose_hvp.py), and compare derivatives (checks/). Their
results are remembered for like models in this process. A signature says which are alike, by the
kinds of tensors, the code of functions and the attributes of objects; it holds no data.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from optuna_hypergrad.autodiff.checks import derivative, state
from optuna_hypergrad.autodiff.loss import Batch, Statistics, TrainingLoss, validating
from optuna_hypergrad.autodiff.second_order import hvp
from optuna_hypergrad.autodiff.second_order.choose_hvp import BATCHED_FROM, FirstBatch, Plan
from optuna_hypergrad.autodiff.snapshot import Snapshotter
from optuna_hypergrad.autodiff.updates import Update
from optuna_hypergrad.autodiff.updates.protocol import Values

_plans: dict[object, Plan] = {}
_passed: dict[object, None] = {}  # other checks
_MOST = 1000  # results to remember; losses that capture a trial number are never alike
_LONG = 64  # elements of a container that a signature holds
_LARGE = 2**16
_BOOKKEEPING = frozenset(vars(nn.Module()))  # attributes that every module has


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
    key = (products, many_tangents, constant, signature_of(loss, batch, hparams))
    plan = _plans.get(key)
    if plan is None:
        with torch.enable_grad(), _unchanged(loss):
            with suppress(RuntimeError):  # of torch, which the next line explains
                state.check_state(loss, batch, hparams, constant)
            plan = FirstBatch(loss, batch, hparams).plan(products, many_tangents)
            loss.switched = plan.switched
            derivative.check_products(loss, batch, hparams)
        plan = plan._replace(used=frozenset(loss.used))
        _remember(_plans, key, plan)
    loss.switched = plan.switched
    loss.used |= plan.used
    return hvp.HVP_METHODS[plan.method]


def check_validation(
    loss: TrainingLoss, batch: Batch, hparams: Values, statistics: Statistics
) -> None:
    """Raise a ValueError where the validation loss cannot be differentiated as it is computed.

    ``batch`` is one of the training, which stands for those of the validation.
    """
    key = (statistics, signature_of(loss, batch, hparams))
    if key not in _passed:
        with torch.enable_grad(), _unchanged(loss), validating(loss.model, statistics):
            derivative.check_loss(loss, batch, hparams)
        _remember(_passed, key, None)


def check_update(update: Update, weights: Tensor, hparams: Values) -> None:
    """Raise a ValueError where the update cannot be differentiated as it is computed."""
    values = tuple((name, torch.is_tensor(value), bool(value)) for name, value in hparams.items())
    key = (kind_of([update, weights], depth=6), values)
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


def signature_of(loss: TrainingLoss, batch: Batch, hparams: Values) -> object:
    """What like losses on like batches have in common; hashable."""
    model, weights = loss.model, loss.weights
    return (
        tuple((name, _of_module(module)) for name, module in model.named_modules()),
        tuple((name, kind_of(p), bool(p._backward_hooks)) for name, p in weights.named.items()),
        tuple((name, kind_of(b)) for name, b in model.named_buffers()),
        tuple(map(kind_of, tree_leaves(batch))),
        tuple((name, kind_of(value), bool(value)) for name, value in hparams.items()),
        kind_of(loss.loss_fn),
        torch.is_autocast_enabled(weights.device.type),
        "torch._dynamo" in sys.modules,  # else nothing can have been compiled yet
    )


def _of_module(module: nn.Module) -> object:
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
        tuple((name, kind_of(value, 2)) for name, value in attributes),
        *(kind_of(list(hook.values())) for hook in hooks if hook),
    )


def kind_of(value: Any, depth: int = 3) -> object:
    """What is equal for like values; objects are followed ``depth`` levels deep.

    A float varies from trial to trial, so it only counts whether it is zero, as a rate of dropout
    may be; a large int is an id. Functions count by their code and by what they have captured.
    """
    if isinstance(value, float) or (isinstance(value, int) and value > _LARGE):
        return (type(value), value == 0)
    if value is None or isinstance(value, str | int | type | CodeType | torch.dtype | torch.device):
        return value
    if isinstance(value, Tensor):
        shape = None if value.is_nested else value.shape
        return (type(value), value.dtype, value.device, value.layout, shape)
    if isinstance(value, BuiltinFunctionType):
        return (value.__module__, value.__qualname__)
    if isinstance(value, nn.Module) or depth == 0:
        return type(value)
    return (type(value), *(kind_of(part, depth - 1) for part in _parts(value)))


def _parts(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return [len(value), *list(value)[:_LONG], *list(value.values())[:_LONG]]
    if isinstance(value, list | tuple | set | frozenset):
        return [len(value), *list(value)[:_LONG]]
    if isinstance(value, partial):
        return [value.func, value.args, value.keywords]
    if isinstance(value, MethodType):
        return [value.__func__, value.__self__]
    if isinstance(value, FunctionType):
        cells = [_content(cell) for cell in value.__closure__ or ()]
        return [value.__code__, *cells, value.__defaults__, value.__kwdefaults__]
    return list(vars(value).values()) if hasattr(value, "__dict__") else []


def _content(cell: CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # of a name that has yet to be bound
        return None
