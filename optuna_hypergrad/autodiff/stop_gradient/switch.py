"""Values with two derivatives: the one that the training gradient takes, and that of the value.

``Switch`` is for what is detached, ``declared`` for a ``torch.autograd.Function`` of the user's.
Below, which calls of torch's write into tensors or give none, which matters where gradients stop.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function


@dataclass(eq=False)
class StopState:
    """Whether gradients stop where the training stops them, in one evaluation of a loss."""

    active: bool = True
    """True while the training gradient is taken; False while all that depends on the weights is
    differentiated."""
    found: bool = False
    """Whether the loss depends on a value at which gradients stop."""
    recording: Callable[[], AbstractContextManager[object]] = nullcontext
    """Records what is stopped in code that runs while the training gradient is taken."""


class Switch(Function):
    """A value whose derivative goes through ``declared`` while stops are active, else ``actual``.

    Both have the same value; ``declared`` is None where the training takes it for a constant.
    """

    @staticmethod
    def forward(ctx: Any, stops: StopState, declared: Tensor | None, actual: Tensor) -> Tensor:
        ctx.stops, ctx.constant = stops, declared is None
        return actual.detach()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor | None, Tensor | None]:
        if ctx.stops.active:
            return None, None if ctx.constant else gradient, None
        return None, None, gradient


def stopped(stops: StopState, actual: Tensor, declared: Tensor | None = None) -> Tensor:
    """``actual``, whose derivative in the training gradient is that of ``declared``, or none."""
    with torch.enable_grad():  # the loss may have turned gradients off
        result: Tensor = Switch.apply(stops, declared, actual)
    return result


class OpaqueError(Exception):
    """The forward of a function cannot be differentiated operation by operation."""


class Context:
    """What a ``Function`` gets as ``ctx``; the tensors that it saves keep their graph."""

    def __init__(self, args: tuple[Any, ...], attached: Callable[[Any], Any]) -> None:
        self._attached = attached
        self.saved_tensors: tuple[Tensor | None, ...] = ()
        self.needs_input_grad = tuple(isinstance(a, Tensor) and a.requires_grad for a in args)
        self.constant: tuple[int, ...] = ()
        self.materialize = True

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        self.saved_tensors = tuple(map(self._attached, tensors))

    def release(self) -> None:
        """Drop what refers to the graph, whose nodes refer to this: Python sees no such cycles."""
        self._attached = lambda value: value

    def save_for_forward(self, *tensors: Tensor | None) -> None:
        pass  # for its jvp, which is never called

    def mark_non_differentiable(self, *tensors: Tensor) -> None:
        self.constant = tuple(map(id, tensors))

    def set_materialize_grads(self, value: bool) -> None:
        self.materialize = value

    def mark_dirty(self, *tensors: Tensor) -> None:
        raise OpaqueError("it changes its inputs in place")


class Declared(Function):
    """Outputs of another function, with the backward that it declares while stops are active.

    Takes the stops, the function's class, its context, the number of its outputs, the outputs as
    functions of its arguments, and these arguments.
    """

    @staticmethod
    def forward(
        ctx: Any, stops: StopState, cls: type[Function], context: Context, count: int, *rest: Any
    ) -> Any:
        ctx.stops, ctx.cls, ctx.context, ctx.count = stops, cls, context, count
        ctx.arguments = len(rest) - count
        ctx.set_materialize_grads(context.materialize)
        outputs = tuple(o.detach() if isinstance(o, Tensor) else o for o in rest[:count])
        constant = [
            new
            for new, old in zip(outputs, rest[:count], strict=True)
            if isinstance(new, Tensor)
            and (id(old) in context.constant or not (new.is_floating_point() or new.is_complex()))
        ]
        ctx.mark_non_differentiable(*constant)
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        if not ctx.stops.active:
            return (None,) * 4 + gradients + (None,) * ctx.arguments
        with ctx.stops.recording():
            by_argument = ctx.cls.backward(ctx.context, *gradients)
        by_argument = by_argument if isinstance(by_argument, tuple) else (by_argument,)
        return (None,) * (4 + ctx.count) + by_argument


def declared(
    cls: type[Function], args: tuple[Any, ...], stops: StopState, attached: Callable[[Any], Any]
) -> Any:
    """The outputs of ``cls.apply(*args)``, differentiable as declared and as computed.

    Args:
        cls: The function.
        args: Its arguments.
        stops: Whether gradients stop.
        attached: Gives what its forward computed, or saved, as a function of the weights.

    Raises:
        OpaqueError: If its forward is not made of operations of torch's that autograd can follow.
    """
    context: Any = Context(args, attached)
    try:
        with torch.enable_grad():
            if cls.setup_context is Function.setup_context:
                outputs = cls.forward(context, *args)
            else:
                outputs = cls.forward(*args)
                cls.setup_context(context, args, outputs)
    except RuntimeError as error:
        raise OpaqueError(str(error)) from error
    context.release()
    all_outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    results = Declared.apply(
        stops, cls, context, len(all_outputs), *map(attached, all_outputs), *args
    )
    return results if isinstance(outputs, tuple) else results[0]


# Calls whose results are no tensors, or say how autograd sees a tensor; switches.
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
