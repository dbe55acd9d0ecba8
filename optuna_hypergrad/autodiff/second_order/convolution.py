"""Convolutions whose second derivative costs three convolutions and no more.

A convolution y = x∗w + c is bilinear in x and w. Its backward pass is B(g; x, w) = (∂x, ∂w, ∂c)
with ⟨u, ∂x⟩ + ⟨V, ∂w⟩ + ⟨b, ∂c⟩ = ⟨g, u∗w + x∗V + b⟩ for every u, V, b. The right-hand side gives
the derivatives of B itself:

    ∂/∂g = u∗w + x∗V + b,    ∂/∂x = the x-part of B(g; ·, V),    ∂/∂w = the w-part of B(g; u, ·),

two convolutions and one more B(g; u, V). The same map and its backward pass again: the two
functions below are closed under differentiation, to any order. torch's own second derivative
copies and transposes instead, group by group. Transposed convolutions are bilinear too.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from optuna_hypergrad.autodiff.second_order.operators import applied, eligible, is_batched

_convolution_backward = torch.ops.aten.convolution_backward.default

Numbers = int | Sequence[int]


class _Geometry(NamedTuple):
    """What torch's convolution takes beside its tensors, in its order."""

    stride: list[int]
    padding: list[int]
    dilation: list[int]
    transposed: bool
    output_padding: list[int]
    groups: int


class _Convolution(Function):
    """x, w, c, geometry → x∗w + c."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: _Geometry
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = geometry
        return _Convolution.value(x, weight, bias, geometry)

    @staticmethod
    def value(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: _Geometry) -> Tensor:
        return torch.convolution(x, weight, bias, *geometry)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad[:3]
        return *applied(_Backward, g, x, weight, ctx.geometry, wanted), None


class _Backward(Function):
    """g, x, w, geometry, which parts → B(g; x, w), None for a part that is not wanted."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> tuple[Tensor | None, ...]:
        ctx.save_for_backward(*given[:3])
        ctx.geometry = given[3]
        ctx.set_materialize_grads(False)
        return _Backward.value(*given)

    @staticmethod
    def value(
        g: Tensor,
        x: Tensor,
        weight: Tensor,
        geometry: _Geometry,
        wanted: tuple[bool, bool, bool],
    ) -> tuple[Tensor | None, ...]:
        outputs = weight.shape[1] * geometry.groups if geometry.transposed else weight.shape[0]
        parts: tuple[Tensor | None, ...] = _convolution_backward(
            g, x, weight, [outputs], *geometry, wanted
        )
        return parts

    @staticmethod
    def backward(
        ctx: Any, u: Tensor | None, v: Tensor | None, b: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        g, x, weight = ctx.saved_tensors
        needs_g, needs_x, needs_weight, *_ = ctx.needs_input_grad
        grad_g = _grad_g(g, x, weight, u, v, b, ctx.geometry) if needs_g else None
        wanted = (needs_x and v is not None, needs_weight and u is not None, False)
        if not any(wanted):
            return grad_g, None, None, None, None
        u, v = x if u is None else u, weight if v is None else v
        if all(wanted) and is_batched(u):
            # Together, vmap would take one convolution for each of the batch.
            grad_x = _Backward.value(g, x, v, ctx.geometry, (True, False, False))[0]
            grad_weight = _Backward.value(g, u, weight, ctx.geometry, (False, True, False))[1]
        else:
            grad_x, grad_weight, _ = applied(_Backward, g, u, v, ctx.geometry, wanted)
        return grad_g, grad_x, grad_weight, None, None


def _grad_g(
    g: Tensor,
    x: Tensor,
    weight: Tensor,
    u: Tensor | None,
    v: Tensor | None,
    b: Tensor | None,
    geometry: _Geometry,
) -> Tensor | None:
    """u∗w + x∗V + b, of which any may be missing."""
    parts: list[Tensor] = []
    for a, k in ((u, weight), (x, v)):
        if a is not None and k is not None:
            parts.append(applied(_Convolution, a, k, None if parts else b, geometry))
    if not parts and b is not None:
        parts.append(b.view(-1, *[1] * (g.dim() - 2)).expand_as(g))
    return reduce(Tensor.add_, parts) if parts else None


def convolution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Numbers = 1,
    padding: Numbers | str = 0,
    dilation: Numbers = 1,
    groups: int = 1,
) -> Tensor | None:
    """``torch.nn.functional.conv1d``, ``conv2d`` or ``conv3d``, by the dimensions of the weight.

    The result and its first derivatives are torch's, bit for bit; None where the call is none for
    this function: no batch, padding by name, or not ``eligible``.
    """
    if isinstance(padding, str):
        return None
    return _convolution(input, weight, bias, stride, padding, dilation, False, 0, groups)


def transposed_convolution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Numbers = 1,
    padding: Numbers = 0,
    output_padding: Numbers = 0,
    groups: int = 1,
    dilation: Numbers = 1,
) -> Tensor | None:
    """``torch.nn.functional.conv_transpose1d``, ``2d`` or ``3d``; see ``convolution``."""
    return _convolution(
        input, weight, bias, stride, padding, dilation, True, output_padding, groups
    )


def _convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Numbers,
    padding: Numbers,
    dilation: Numbers,
    transposed: bool,
    output_padding: Numbers,
    groups: int,
) -> Tensor | None:
    tensors = (x, weight) if bias is None else (x, weight, bias)
    if x.dim() != weight.dim() or not eligible(*tensors):
        return None
    geometry = _Geometry(
        _each(stride, x),
        _each(padding, x),
        _each(dilation, x),
        transposed,
        _each(output_padding, x),
        groups,
    )
    convolved: Tensor = _Convolution.apply(x, weight, bias, geometry)
    return convolved


def _each(numbers: Numbers, x: Tensor) -> list[int]:
    """One number for each dimension of ``x`` that is neither batch nor channel."""
    given = list(numbers) if isinstance(numbers, Sequence) else [numbers]
    return given * (x.dim() - 2) if len(given) == 1 else given
