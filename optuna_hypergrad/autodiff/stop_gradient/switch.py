"""A value with two derivatives: that of the training gradient, and its own.

What calls of torch's functions do with tensors, as far as it matters where gradients stop.

Hooks that change gradients on their way back, which belong to the training gradient alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function


class Stops:
    """Whether gradients stop where the training stops them, in one evaluation of a loss.

    Args:
        active: True while the training gradient is taken; False where everything that depends on
            the weights is differentiated.
    """

    def __init__(self, active: bool = True) -> None:
        self.active = active
        self.found = False
        """Whether the loss depends on a value at which gradients stop."""
        self.recorded: Callable[[], AbstractContextManager[object]] = nullcontext
        """Records what is stopped in code that runs while the training gradient is taken."""

    def forget(self) -> None:
        """The training gradient has been taken: free what was recorded for code that runs then.

        It refers to the graph, whose nodes refer to this object, and Python sees no such circles.
        """
        self.recorded = nullcontext


class Switch(Function):
    """A value whose derivative is taken through ``declared`` while stops are active.

    And through ``actual`` where they are not. Both have the same value; ``declared`` is None where
    the training takes the value for a constant.
    """

    @staticmethod
    def forward(ctx: Any, stops: Stops, declared: Tensor | None, actual: Tensor) -> Tensor:
        ctx.stops, ctx.constant = stops, declared is None
        return actual.detach()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor | None, Tensor | None]:
        if ctx.stops.active:
            return None, None if ctx.constant else gradient, None
        return None, None, gradient


def stopped(stops: Stops, actual: Tensor, declared: Tensor | None = None) -> Tensor:
    """``actual``, whose derivative in the training gradient is that of ``declared``, or none."""
    with torch.enable_grad():  # the loss may have turned gradients off
        result: Tensor = Switch.apply(stops, declared, actual)
    return result


# Results that are no tensors, or that say of a tensor how autograd sees it; switches.
# fmt: off
_OPAQUE = frozenset([
    "numpy", "__array__", "item", "tolist", "__float__", "__int__", "__bool__", "__index__",
    "__complex__", "__repr__", "__str__", "__format__", "__len__", "__deepcopy__", "__hash__",
    "__reduce_ex__", "__dlpack__", "__dlpack_device__", "__set__", "__contains__", "data_ptr",
    "size", "stride", "dim", "numel", "storage", "untyped_storage", "backward", "retain_grad",
    "requires_grad_", "share_memory_", "is_floating_point", "is_complex",
    "register_post_accumulate_grad_hook",
])
_WRITING = frozenset([
    "__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__", "__ifloordiv__", "__imod__",
    "__ipow__", "__iand__", "__ior__", "__ixor__", "__ilshift__", "__irshift__",
])
# fmt: on
_DIFFERENTIABLE = tuple(
    getattr(Tensor, name).__get__ for name in ("T", "mT", "H", "mH", "real", "imag")
)


def is_opaque(func: Callable[..., Any]) -> bool:
    """Whether a call has no tensor as its result that depends on its arguments."""
    name = getattr(func, "__name__", "")
    return name in _OPAQUE or (name == "__get__" and func not in _DIFFERENTIABLE)


NORMALISING = (F.batch_norm, F.instance_norm, torch.batch_norm, torch.instance_norm)
"""Calls that write into the running statistics that they get."""


def changed_in_place(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[bool, Tensor | None]:
    """Whether a call writes into what it gets, and the tensor, if that is one alone."""
    name = getattr(func, "__name__", "")
    written = kwargs.get("out")
    if written is None:
        by_name = name in _WRITING or (name.endswith("_") and not name.endswith("__"))
        if not by_name and kwargs.get("inplace") is not True:
            return False, None
        written = args[0] if args else None
    return True, written if isinstance(written, Tensor) else None


Hook = Callable[..., Any]


@contextmanager
def without_hooks(parameters: Sequence[Tensor]) -> Iterator[None]:
    """Within it, gradients of the parameters are those that torch computes."""
    kept = [(p._backward_hooks, dict(p._backward_hooks)) for p in parameters if p._backward_hooks]
    for hooks, _ in kept:
        hooks.clear()
    try:
        yield
    finally:
        for hooks, before in kept:
            hooks.update(before)


def while_stopped(hook: Hook, stops: Stops) -> Hook:
    """``hook`` that is called only for the training gradient."""

    def called(*args: Any) -> Any:
        if not stops.active:
            return None
        with stops.recorded():
            return hook(*args)

    return called


@contextmanager
def hooks_while_stopped(model: nn.Module, stops: Stops) -> Iterator[None]:
    """Within it, hooks of modules that run and of parameters see the training gradient alone."""
    places = [p._backward_hooks for p in model.parameters()]
    places += [
        hooks for m in model.modules() for hooks in (m._backward_hooks, m._backward_pre_hooks)
    ]
    kept = [(hooks, dict(hooks)) for hooks in places if hooks]
    stops.found |= bool(kept)
    for hooks, before in kept:
        hooks.update({key: while_stopped(hook, stops) for key, hook in before.items()})
    try:
        yield
    finally:
        for hooks, before in kept:
            hooks.update(before)
