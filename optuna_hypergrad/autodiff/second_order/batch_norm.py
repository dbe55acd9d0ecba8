"""Batch norm whose second derivative is a few passes over the batch.

For one channel with n values x of mean μ and variance σ², y = w·x̂ + b with x̂ = (x − μ)·s and
s = 1/√(σ² + ε). Sums Σ run over the n values, and the backward pass of g is, in the sums G = Σg and
Gx = Σg·x̂,

    B(g; x, w) = (w·s·(g − G/n − x̂·Gx/n), Gx, G).                        (parts ∂x, ∂w, ∂b)

To differentiate φ = ⟨u, ∂x⟩ + a·Gx + c·G for given u, a, c, write U = Σu, Ux = Σu·x̂, and

    K = Σu·g − U·G/n − Ux·Gx/n,    φ = w·s·K + a·Gx + c·G.

K does not change with s, nor with x̂ but through Ux and Gx, so ∂φ/∂x̂ = q with

    q = p·g + r·u,    p = a − w·s·Ux/n,    r = −w·s·Gx/n,

and ∂s/∂x = −s²·x̂/n, while x̂ depends on x as in the backward pass (with weight 1). Therefore

    ∂φ/∂g = w·s·(u − U/n) + p·x̂ + c,
    ∂φ/∂x = s·(q − Q/n − x̂·Qx/n) − w·K·s²·x̂/n,    Q = p·G + r·U,  Qx = p·Gx + r·Ux,
    ∂φ/∂w = s·K.

Everything is per channel but g, u and x̂ = x·s − μ·s, so both derivatives are sums of x, g and u,
each times one number for each channel.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from optuna_hypergrad.autodiff.second_order.operators import applied, eligible, is_batched

# The entries that pick cuDNN or torch's own kernel as ``torch.nn.functional.batch_norm`` does.
_forwards = torch.ops.aten._batch_norm_with_update.default
_backwards = torch.ops.aten.batch_norm_backward.default
_native_backwards = torch.ops.aten.native_batch_norm_backward.default


class _BatchNorm(Function):
    """x, w, b, running mean and variance, momentum, ε → y."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        momentum: float,
        eps: float,
    ) -> Tensor:
        y: Tensor
        y, *statistics = _forwards(x, weight, bias, running_mean, running_var, momentum, eps)
        ctx.save_for_backward(x, weight, *statistics)  # μ, s, and what cuDNN's backward reserves
        ctx.eps = eps
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        return *applied(_Backward, g, *ctx.saved_tensors, ctx.eps), None, None, None, None


class _Backward(Function):
    """g, x, w, μ, s, what is reserved, ε → B(g; x, w)."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> tuple[Tensor, Tensor, Tensor]:
        grad_x, gx, g1 = _Backward.value(*given)
        ctx.save_for_backward(*given[:5], gx, g1)
        return grad_x, gx, g1

    @staticmethod
    def value(
        g: Tensor,
        x: Tensor,
        weight: Tensor,
        mean: Tensor,
        s: Tensor,
        reserve: Tensor,
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        given = (g, x, weight, None, None, mean, s, True, eps, [True, True, True])
        parts: tuple[Tensor, Tensor, Tensor] = (  # vmap has a rule for the first of them only
            _native_backwards(*given) if is_batched(g) else _backwards(*given, reserve)
        )
        return parts

    @staticmethod
    def backward(ctx: Any, u: Tensor, a: Tensor, c: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise NotImplementedError("This batch norm has no third derivative.")
        g, x, w, mean, s, gx, g1 = ctx.saved_tensors
        n = x.numel() // x.shape[1]
        ux, u1 = _sums(u, x, mean, s)
        ug, _ = _sums(u, g, torch.zeros_like(mean), torch.ones_like(s))
        k = ug - u1 * g1 / n - ux * gx / n
        p, r = a - w * s * ux / n, -w * s * gx / n
        q1, qx = p * g1 + r * u1, p * gx + r * ux
        factor = -s * s * (qx + w * s * k) / n  # of x; x̂ = x·s − μ·s
        grad_x = _affine(x, factor, -s * q1 / n - factor * mean)
        grad_x = _added(_added(grad_x, g, _channels(s * p, x)), u, _channels(s * r, x))
        grad_g = _affine(x, p * s, c - w * s * u1 / n - p * s * mean)
        grad_g = _added(grad_g, u, _channels(w * s, x))
        return grad_g, grad_x, s * k, None, None, None, None


def _sums(u: Tensor, x: Tensor, mean: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """Σu·(x − μ)·s and Σu of each channel, in one pass of torch's own backward kernel."""
    one, wanted = torch.ones_like(s), [False, True, True]  # vmap leaves out sums without a weight
    _, weighted, plain = _native_backwards(u, x, one, None, None, mean, s, True, 0.0, wanted)
    return weighted, plain


def _added(total: Tensor, x: Tensor, factor: Tensor) -> Tensor:
    """total + x·factor, in place where that is possible: vmap has no rule for it."""
    add = torch.addcmul if is_batched(total) else Tensor.addcmul_
    added: Tensor = add(total, x, factor)
    return added


def _affine(x: Tensor, factor: Tensor, offset: Tensor) -> Tensor:
    return torch.addcmul(_channels(offset, x), x, _channels(factor, x))


def _channels(values: Tensor, x: Tensor) -> Tensor:
    """Values of the channels, shaped to multiply ``x``."""
    return values.view(-1, *[1] * (x.dim() - 2))


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor | None:
    """``torch.nn.functional.batch_norm`` with the statistics of the batch.

    The result, its first derivatives and the running statistics are torch's, bit for bit; None
    where the call is none for this function: not training, no weight, bias or running statistics, a
    single value, or not ``eligible``. There is no third derivative.
    """
    if not training or weight is None or bias is None:
        return None
    if running_mean is None or running_var is None or input.numel() <= input.shape[1]:
        return None
    tensors = (input, weight, bias, running_mean, running_var)
    if not eligible(*tensors):
        return None
    normalised: Tensor = _BatchNorm.apply(*tensors, momentum, eps)
    return normalised
