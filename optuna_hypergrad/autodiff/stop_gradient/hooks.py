"""Hooks that change gradients on their way back, which belong to the training gradient alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from optuna_hypergrad.autodiff.stop_gradient.switch import Stops

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
    places += [hooks for m in model.modules() for hooks in (m._backward_hooks, m._backward_pre_hooks)]
    kept = [(hooks, dict(hooks)) for hooks in places if hooks]
    stops.found |= bool(kept)
    for hooks, before in kept:
        hooks.update({key: while_stopped(hook, stops) for key, hook in before.items()})
    try:
        yield
    finally:
        for hooks, before in kept:
            hooks.update(before)
