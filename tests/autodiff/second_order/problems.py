"""Two derivatives of an operation and how to compare them, and a function without a second one."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.func import vmap

from optuna_hypergrad.autodiff.second_order.switching import Kernels, second_derivatives

FUSED = Kernels(fused=True)


def twice(
    function: Callable[[], Tensor], sources: Sequence[Tensor], kernels: Kernels
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """A value, its gradient and a product of its Hessian, of a curved loss of the outputs."""
    with second_derivatives(kernels):
        outputs = function()
    loss = (outputs * torch.sin(outputs)).sum()
    first = torch.autograd.grad(loss, sources, create_graph=True)
    second = torch.autograd.grad(first, sources, [torch.cos(s.detach()) for s in sources])
    return outputs, list(first), list(second)


def assert_like_torch(function: Callable[[], Tensor], sources: Sequence[Tensor]) -> None:
    """Value and first derivatives are torch's to the bit, second derivatives to rounding."""
    value, first, second = twice(function, sources, FUSED)
    own_value, own_first, own_second = twice(function, sources, Kernels())
    assert "_Convolution" in str(value.grad_fn) or "_BatchNorm" in str(value.grad_fn)
    for mine, own in zip([value, *first], [own_value, *own_first], strict=True):
        assert torch.equal(mine, own)
        assert mine.stride() == own.stride()
    for mine, own in zip(second, own_second, strict=True):
        assert float((mine - own).norm() / own.norm()) < 1e-12


class Square(Function):
    """Has no second derivative; asked for one, torch takes its gradient for a constant."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 2 * g * ctx.saved_tensors[0]


def assert_same_at_once(gradients: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Products with several directions are taken together, without a warning, as one by one."""

    def product(*directions: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(gradients, sources, directions, retain_graph=True)

    directions = [torch.randn(3, *source.shape).to(source) for source in sources]
    together = vmap(product)(*directions)
    for n in range(3):
        alone = product(*(vectors[n] for vectors in directions))
        for one, many in zip(alone, together, strict=True):
            assert torch.allclose(many[n], one, rtol=1e-12, atol=1e-12)
