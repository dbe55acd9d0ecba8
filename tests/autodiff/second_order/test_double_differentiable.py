"""What cannot be differentiated twice is noticed, and the module at fault is named."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autodiff.second_order.problems import Square
from optuna_hypergrad.autodiff.second_order.double_differentiable import (
    differentiate_twice,
    module_at_fault,
)
from optuna_hypergrad.autodiff.second_order.switching import Kernels, second_derivatives


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


class Squared(nn.Module):
    def forward(self, x: Tensor, *, scale: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return x, {"squared": Square.apply(x * scale)}


class Block(nn.Module):
    """Fails through its second child only; overwrites its input and draws random numbers."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.norm, self.inner, self.drop = nn.BatchNorm1d(3), inner, nn.Dropout(0.5)
        self.rectify = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        _, outputs = self.inner(self.norm(x), scale=torch.tensor(2.0))
        return self.rectify(self.drop(outputs["squared"]))


def network(inner: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.Tanh(), Block(inner)), nn.Linear(3, 1))


def test_the_innermost_module_is_named_and_all_is_left_as_it_was() -> None:
    model = network(Squared())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    fault = module_at_fault(model, lambda: model(torch.randn(4, 3)).sum())
    assert fault is not None
    assert fault.startswith("1.1.inner (Squared): ")
    assert "once_differentiable" in fault
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())


def test_a_fault_in_the_model_itself_and_outside_of_it() -> None:
    class Squares(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return Square.apply(self.linear(x))

    model, linear = Squares(), nn.Linear(3, 3)
    fault = module_at_fault(model, lambda: model(torch.ones(2, 3)))
    assert fault is not None and fault.startswith("the model itself (Squares): ")
    assert module_at_fault(linear, lambda: Square.apply(linear(torch.ones(2, 3))).sum()) is None


def test_attention() -> None:
    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.attention(x, x, x, need_weights=False)[0]

    model = nn.Sequential(nn.Linear(4, 4), Attending())

    def run() -> Tensor:
        return F.mse_loss(model(torch.ones(2, 3, 4)), torch.zeros(2, 3, 4))

    fault = module_at_fault(model, run)
    assert fault is not None
    assert fault.startswith("1.attention (MultiheadAttention): derivative for aten::")
    with second_derivatives(Kernels(attention=True)):
        assert module_at_fault(model, run) is None


def test_a_failing_run_leaves_nothing_behind() -> None:
    model = network(Squared())
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        module_at_fault(model, lambda: model(torch.randn(4, 7)))
    assert not any(m._forward_pre_hooks for m in model.modules())
