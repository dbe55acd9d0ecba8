"""``torch.autograd.Function``s of the user's: the backward that they declare, and the derivative
of their forward."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from optuna_hypergrad.autodiff.stop_gradient.switch import Stops

Applied = Callable[[type[Function], tuple[Any, ...]], Any]  # what is to answer cls.apply(*args)

_OWN = ("torch.", "optuna_hypergrad.")  # whose backward is the derivative of their forward
_lock, _users = threading.Lock(), 0
_answering = threading.local()
_apply = Function.__dict__["apply"]


class OpaqueError(Exception):
    """The forward of a function cannot be differentiated operation by operation."""


class Context:
    """What a ``Function`` gets as ``ctx``; the tensors that it saves keep their graph."""

    def __init__(self, args: tuple[Any, ...], seen: Callable[[Any], Any]) -> None:
        self._seen = seen
        self.saved_tensors: tuple[Tensor | None, ...] = ()
        self.needs_input_grad = tuple(isinstance(a, Tensor) and a.requires_grad for a in args)
        self.constant: tuple[int, ...] = ()
        self.materialize = True

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        self.saved_tensors = tuple(map(self._seen, tensors))

    def forget(self) -> None:
        """Drop what knows the graph, whose nodes hold this object: Python sees no such circles."""
        self._seen = _same

    def save_for_forward(self, *tensors: Tensor | None) -> None:
        pass  # for its jvp, which is not asked for

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
        ctx: Any, stops: Stops, cls: type[Function], context: Context, count: int, *rest: Any
    ) -> Any:
        ctx.stops, ctx.cls, ctx.context, ctx.count = stops, cls, context, count
        ctx.arguments = len(rest) - count
        ctx.set_materialize_grads(context.materialize)
        outputs = tuple(o.detach() if isinstance(o, Tensor) else o for o in rest[:count])
        constant = [
            new
            for new, old in zip(outputs, rest[:count], strict=True)
            if isinstance(new, Tensor) and (id(old) in context.constant or not _is_real(new))
        ]
        ctx.mark_non_differentiable(*constant)
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        if not ctx.stops.active:
            return (None,) * 4 + gradients + (None,) * ctx.arguments
        with ctx.stops.recorded():
            found = ctx.cls.backward(ctx.context, *gradients)
        found = found if isinstance(found, tuple) else (found,)
        return (None,) * (4 + ctx.count) + found


def declared(
    cls: type[Function], args: tuple[Any, ...], stops: Stops, seen: Callable[[Any], Any]
) -> Any:
    """The outputs of ``cls.apply(*args)``, differentiable as declared and as computed.

    Args:
        cls: The function.
        args: Its arguments.
        stops: Whether gradients stop.
        seen: Gives what its forward computed, or saved, as a function of the weights.

    Raises:
        OpaqueError: If its forward is not made of operations of torch's that autograd can follow.
    """
    context: Any = Context(args, seen)
    try:
        with torch.enable_grad():
            if cls.setup_context is Function.setup_context:
                outputs = cls.forward(context, *args)
            else:
                outputs = cls.forward(*args)
                cls.setup_context(context, args, outputs)
    except RuntimeError as error:
        raise OpaqueError(str(error)) from error
    context.forget()
    several = tuple(map(seen, outputs if isinstance(outputs, tuple) else (outputs,)))
    found = Declared.apply(stops, cls, context, len(several), *several, *args)
    return found if isinstance(outputs, tuple) else found[0]


@contextmanager
def answered_by(answer: Applied) -> Iterator[None]:
    """Within it, in this thread, calls of users' functions are answered by ``answer``."""
    before = getattr(_answering, "answer", None)
    _patch(1)
    _answering.answer = answer
    try:
        yield
    finally:
        _answering.answer = before
        _patch(-1)


def original(cls: type[Function], args: tuple[Any, ...]) -> Any:
    """``cls.apply(*args)`` as torch has it."""
    return _apply.__get__(None, cls)(*args)


def _patch(change: int) -> None:
    """``Function.apply`` is torch's own whenever nobody differentiates."""
    global _users
    with _lock:
        _users += change
        Function.apply = classmethod(_dispatched) if _users else _apply


def _dispatched(cls: type[Function], *args: Any, **kwargs: Any) -> Any:
    answer: Applied | None = getattr(_answering, "answer", None)
    if answer is None or kwargs or (cls.__module__ + ".").startswith(_OWN):
        return _apply.__get__(None, cls)(*args, **kwargs)
    return answer(cls, args)


def _is_real(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _same(value: Any) -> Any:
    return value
