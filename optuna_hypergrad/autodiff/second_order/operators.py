"""Operations of torch's whose second derivative is missing or wrong, with one that is right.

Hardsigmoid, y = min(max(x + 3, 0), 6) / 6, is linear between −3 and 3 and constant beyond. Its
backward pass, B(g; x) = g/6 where |x| < 3 and 0 elsewhere, is linear in g and does not change with
x but at the two kinks, where torch takes 0. So ∂⟨u, B⟩/∂g = B(u; x), and ∂⟨u, B⟩/∂x = 0: to any
order. Torch's backward kernel has no derivative, nor have its sums and means of bags of embeddings.
For its weight norm, torch takes the norms that its kernel saves for constants when the gradient is
differentiated again, and gives a wrong result without an error (found in torch 2.15).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function


def eligible(*tensors: Tensor) -> bool:
    """Whether an operation on ``tensors`` is differentiated, and of the usual kind.

    Half precision, mixed or complex numbers, autocast, subclasses of tensors and the transforms of
    ``torch.func`` are left to torch.
    """
    dtypes = {t.dtype for t in tensors}
    return (
        plain(*tensors)
        and (dtypes == {torch.float32} or dtypes == {torch.float64})
        and not torch.is_autocast_enabled(tensors[0].device.type)
    )


def plain(*tensors: Tensor) -> bool:
    """The same for operations that do not care about precision or autocast."""
    return (
        torch.is_grad_enabled()
        and {type(t) for t in tensors} <= {Tensor, nn.Parameter}
        and not torch._C._are_functorch_transforms_active()
    )


def applied(function: Any, *args: Any) -> Any:
    """``function.apply(*args)``, or its ``value`` alone where that is not differentiated again.

    For vmap, which takes the operations of a Function, but not such a Function itself.
    """
    return function.apply(*args) if torch.is_grad_enabled() else function.value(*args)


def is_batched(tensor: Tensor) -> bool:
    """Whether this is within vmap, and ``tensor`` stands for several."""
    return bool(torch._C._functorch.is_batchedtensor(tensor))


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
        grad_x: Tensor = applied(_Backward, g, *ctx.saved_tensors)
        return grad_x


class _Backward(Function):
    """g, x → B(g; x)."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return _Backward.value(g, x)

    @staticmethod
    def value(g: Tensor, x: Tensor) -> Tensor:
        grad_x: Tensor = _backwards(g, x)
        return grad_x

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> tuple[Tensor, None]:
        return applied(_Backward, u, *ctx.saved_tensors), None


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor | None:
    """``torch.nn.functional.hardsigmoid``.

    Values and first derivatives are torch's, bit for bit; None where the call is none for this
    function: not differentiated, a subclass of tensors, or under ``torch.func``.
    """
    if not plain(input):
        return None
    found: Tensor = _Hardsigmoid.apply(input.clone() if inplace else input)
    return input.copy_(found) if inplace else found


def embedding_bag(
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor | None:
    """``torch.nn.functional.embedding_bag`` in the modes ``"sum"`` and ``"mean"``.

    The bags, shape (bags, features), are torch's but for the order of sums; None where the call is
    none for this function, as with ``max_norm``, ``scale_grad_by_freq`` or ``sparse``.
    """
    del norm_type
    if mode not in ("sum", "mean") or sparse or scale_grad_by_freq or max_norm is not None:
        return None
    if not eligible(weight):
        return None
    indices = input.reshape(-1)
    counted = torch.ones_like(indices, dtype=weight.dtype)
    if padding_idx is not None:
        counted = (indices != padding_idx % len(weight)).to(weight.dtype)
    factors = counted if per_sample_weights is None else counted * per_sample_weights.reshape(-1)
    number, bags = _bags(input, offsets, include_last_offset)
    words = F.embedding(indices, weight) * factors[:, None]
    sums = words.new_zeros((number, weight.shape[1])).index_add(0, bags, words)
    if mode == "sum":
        return sums
    return sums / counted.new_zeros(number).index_add(0, bags, counted).clamp_min(1.0)[:, None]


def _bags(input: Tensor, offsets: Tensor | None, include_last: bool) -> tuple[int, Tensor]:
    """The number of bags, and the bag of each index."""
    if offsets is None:
        number, size = input.shape
        return number, torch.arange(number, device=input.device).repeat_interleave(size)
    starts = offsets[:-1] if include_last else offsets
    places = torch.arange(len(input), device=input.device, dtype=starts.dtype)
    return len(starts), torch.bucketize(places, starts, right=True) - 1


WEIGHT_NORM_NODE = "WeightNormInterfaceBackward"
"""How the names of nodes of torch's own weight norm begin in a graph."""


def weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """g·v/‖v‖, the norm taken over all dimensions but ``dim``; over all if that is −1."""
    return v * (g / torch.norm_except_dim(v, 2, dim))
