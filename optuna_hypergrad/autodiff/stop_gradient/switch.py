"""A value with two derivatives: that of the training gradient, and its own."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
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
