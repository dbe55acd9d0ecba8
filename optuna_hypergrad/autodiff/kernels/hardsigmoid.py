"""Hardsigmoid with a second derivative; torch's backward kernel has none.

y = min(max(x + 3, 0), 6) / 6 is linear between −3 and 3 and constant beyond. Its backward pass,
B(g; x) = g/6 where |x| < 3 and 0 elsewhere, is linear in g and does not change with x but at the
two kinks, where torch takes 0. So ∂⟨u, B⟩/∂g = B(u; x), and ∂⟨u, B⟩/∂x = 0: to any order.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from optuna_hypergrad.autodiff.kernels.eligible import plain

_forwards = torch.ops.aten.hardsigmoid.default
_backwards = torch.ops.aten.hardsigmoid_backward.default


class _Hardsigmoid(Function):
    """x → y."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        y: Tensor = _forwards(x)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        along_x: Tensor = _Backward.apply(g, *ctx.saved_tensors)
        return along_x


class _Backward(Function):
    """g, x → B(g; x)."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        along_x: Tensor = _backwards(g, x)
        return along_x

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> tuple[Tensor, None]:
        return _Backward.apply(u, *ctx.saved_tensors), None


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor | None:
    """``torch.nn.functional.hardsigmoid``.

    Args:
        input: Of any shape and floating dtype.
        inplace: Whether the result also replaces ``input``.

    Returns:
        Values and first derivatives bit for bit torch's; None where the call is none for this
        function: not differentiated, a subclass of tensors, or under ``torch.func``.

    Example:
        >>> import torch
        >>> x = torch.tensor([0.0, 5.0], requires_grad=True)
        >>> slope, = torch.autograd.grad((hardsigmoid(x) ** 2).sum(), x, create_graph=True)
        >>> torch.autograd.grad(slope.sum(), x)  # 2/36, and 0 beyond the kink
        (tensor([0.0556, 0.0000]),)
    """
    if not plain(input):
        return None
    found: Tensor = _Hardsigmoid.apply(input.clone() if inplace else input)
    return input.copy_(found) if inplace else found
