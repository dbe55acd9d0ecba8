"""Sees the calls of torch's while a loss is computed, and records where gradients stop."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from types import TracebackType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.overrides import TorchFunctionMode

from optuna_hypergrad.autodiff.second_order.double_differentiable import nodes
from optuna_hypergrad.autodiff.stop_gradient.recorder import Recorder, original, original_apply
from optuna_hypergrad.autodiff.stop_gradient.switch import StopState, is_opaque

Call = Callable[..., Any]

_GRAD_MODE = torch._C._set_grad_enabled
_DETACHING = (
    torch.Tensor.detach,
    torch.Tensor.detach_,
    torch.detach,
    torch.Tensor.data.__get__,  # type: ignore[attr-defined]
)
_OWN = ("torch.", "optuna_hypergrad.")  # whose Functions' backward is the derivative of the forward
_lock, _open_modes = threading.Lock(), 0
_thread = threading.local()


class StopGradients(TorchFunctionMode):
    """Within it, a loss is recorded for both derivatives: the training gradient, and that of it.

    Gradients stop while ``stops.active``, as in plain training: at ``detach`` and ``data``, at what
    is computed under ``no_grad``, at the results of ``torch.autograd.grad`` without
    ``create_graph``; and a ``torch.autograd.Function`` has the backward that it declares, and hooks
    change gradients. Where stops are not active, all of it is differentiated as it was computed.
    Numbers that leave torch (``item``, ``numpy``) are constants.

    Args:
        stops: Whether gradients stop; learns here whether any do.
        part_of: A recording that this one is a part of.

    Example:
        >>> import torch
        >>> w, stops = torch.tensor(3.0, requires_grad=True), StopState()
        >>> with StopGradients(stops):
        ...     loss = w * w.detach()
        >>> g, = torch.autograd.grad(loss, w, create_graph=True)   # the training takes w.detach()
        >>> stops.active = False                                   # for g, but g moves with w
        >>> float(g.detach()), float(torch.autograd.grad(g, w)[0])
        (3.0, 1.0)
    """

    def __init__(self, stops: StopState, part_of: Recorder | None = None) -> None:
        super().__init__()
        self._recorder = Recorder(stops, {} if part_of is None else part_of.attached)
        stops.recording = partial(StopGradients, stops, self._recorder)

    def __enter__(self) -> StopGradients:
        self._outer = getattr(_thread, "recorder", None)
        _thread.recorder = self._recorder
        _answer_functions(1)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]
        _answer_functions(-1)
        _thread.recorder = self._outer

    def __torch_function__(
        self,
        func: Call,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs, recorder = kwargs or {}, self._recorder
        if func is _GRAD_MODE:
            recorder.no_grad = not args[0]
        elif func in _DETACHING:
            attached = recorder.attached_to(args[0], True)  # before it is detached in place
            plain = func(*args)
            recorder.remember(plain, attached)
            return plain
        elif func is torch.autograd.grad:
            return recorder.gradient(args, kwargs)
        elif func is torch.Tensor.register_hook:
            return func(args[0], _while_active(args[1], recorder.found()))
        elif func is F.gumbel_softmax and kwargs.get("hard"):
            return recorder.gumbel_softmax(*args, **kwargs)
        elif func is torch.normal and recorder.no_grad and isinstance(args[-1], Tensor):
            return recorder.normal(*args, **kwargs)
        elif func is F.embedding and (
            kwargs.get("padding_idx") is not None or kwargs.get("scale_grad_by_freq")
        ):
            return recorder.embedding(*args, **kwargs)
        elif (recorder.attached or recorder.no_grad) and not is_opaque(func):
            return recorder.operation(func, args, kwargs)
        return func(*args, **kwargs)


def _answer_functions(change: int) -> None:
    """Answer calls of users' Functions in open modes; outside, ``Function.apply`` is torch's."""
    global _open_modes
    with _lock:
        _open_modes += change
        Function.apply = classmethod(_dispatched) if _open_modes else original_apply


def _dispatched(cls: type[Function], *args: Any, **kwargs: Any) -> Any:
    recorder: Recorder | None = getattr(_thread, "recorder", None)
    if recorder is None or kwargs or _is_own(cls):
        return original(cls, args, **kwargs)
    return recorder.function(cls, args)


def calls_functions(loss: Tensor) -> bool:
    """Whether users' Functions are among the operations of a loss, however they were called."""
    classes = (getattr(type(node), "_forward_cls", Function) for node in nodes([loss]))
    return not all(map(_is_own, classes))


def _is_own(cls: type[Function]) -> bool:
    return (cls.__module__ + ".").startswith(_OWN)


@contextmanager
def recorded(model: nn.Module, stops: StopState) -> Iterator[StopGradients]:
    """Within it, a loss that is computed in the mode that it gives is differentiated as stops say.

    Hooks of parameters and of modules that run see the training gradient alone.
    """
    places = [p._backward_hooks for p in model.parameters()]
    places += [
        hooks for m in model.modules() for hooks in (m._backward_hooks, m._backward_pre_hooks)
    ]
    hooked = [(hooks, dict(hooks)) for hooks in places if hooks]
    stops.found |= bool(hooked)
    for hooks, before in hooked:
        hooks.update({key: _while_active(hook, stops) for key, hook in before.items()})
    try:
        yield StopGradients(stops)
    finally:
        for hooks, before in hooked:
            hooks.update(before)
        # It refers to the graph, whose nodes refer to the stops; Python sees no such cycles.
        stops.recording = nullcontext


@contextmanager
def without_hooks(parameters: Sequence[Tensor]) -> Iterator[None]:
    """Within it, gradients of the parameters are those that torch computes."""
    hooked = [(p._backward_hooks, dict(p._backward_hooks)) for p in parameters if p._backward_hooks]
    for hooks, _ in hooked:
        hooks.clear()
    try:
        yield
    finally:
        for hooks, before in hooked:
            hooks.update(before)


def _while_active(hook: Call, stops: StopState) -> Call:
    """``hook``, called for the training gradient only."""

    def called(*args: Any) -> Any:
        if not stops.active:
            return None
        with stops.recording():
            return hook(*args)

    return called
