import pytest
import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from optuna_hypergrad.autodiff.second_order.double_differentiable import differentiate_twice


class Square(Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    @once_differentiable
    def backward(ctx, g: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        return 2 * g * ctx.saved_tensors[0]


@pytest.mark.parametrize(
    "loss",
    [
        lambda w: Square.apply(w.sin()).square().sum(),  # torch would lose part of the Hessian
        lambda w: Square.apply(w.sin()).sum(),  # torch would lose it silently, too
        lambda w: Square.apply(w.sum()),
    ],
    ids=["inside", "before a sum", "last"],
)
def test_functions_without_second_derivative_are_noticed(loss) -> None:  # type: ignore[no-untyped-def]
    w = torch.ones(3, requires_grad=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        differentiate_twice([loss(w)], [w])
    assert w.grad is None


def test_what_is_differentiable_passes() -> None:
    w, unused = torch.ones(3, requires_grad=True), torch.ones(2, requires_grad=True)
    constant = Square.apply(torch.ones(3))
    for loss in (w.sum(), w.sin().sum(), (w * constant).norm() + unused.detach().sum()):
        differentiate_twice([loss], [w, unused])
    differentiate_twice([], [w])
