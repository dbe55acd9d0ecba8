"""What like models on like batches have in common, so that an answer for one holds for the others.

Nothing that holds data becomes part of a signature: of tensors their kind, of functions their code.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from optuna_hypergrad.autodiff.loss import Batch, TrainingLoss
from optuna_hypergrad.autodiff.updates.protocol import Values

Signature = tuple[object, ...]  # hashable

_BOOKKEEPING = frozenset(vars(nn.Module()))  # attributes that every module has
_LONG = 64  # elements of a container that are looked at


def signature_of(loss: TrainingLoss, batch: Batch, hparams: Values) -> Signature:
    """Of a loss on a batch: modules with their attributes and hooks, weights, shapes, code."""
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


def _of_module(module: nn.Module) -> Signature:
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
    """What is to be equal for two values to be alike; hashable.

    A float varies from trial to trial, so it only counts whether it is zero, as a rate of dropout
    may be. Other numbers, texts and switches count themselves, functions by their code and by what
    they have captured, objects by their attributes, ``depth`` levels deep.
    """
    if isinstance(value, float):
        return (float, value == 0.0)
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
