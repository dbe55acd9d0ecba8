"""Hardsigmoid and hardswish: torch's values and gradients, second derivatives by differences."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autodiff.oracle import oracle_gradient, relative_error
from autodiff.problems import batch, batches, loss_fn
from autodiff.second_order.problems import twice
from optuna_hypergrad import Schedule
from optuna_hypergrad.autodiff import SGD, hypergradient
from optuna_hypergrad.autodiff.second_order.double_differentiable import differentiate_twice
from optuna_hypergrad.autodiff.second_order.switching import (
    Kernels,
    kernels_for,
    second_derivatives,
)

FORMULAS = Kernels(formulas=True)
KINKS = [-3.0, 3.0, -0.0, 6.0, float("inf"), -float("inf"), float("nan")]
DTYPES = [torch.float64, torch.float32, torch.bfloat16]


def near_kinks(dtype: torch.dtype) -> Tensor:
    """Numbers all over, the kinks, and the numbers next to them."""
    exact = torch.tensor(KINKS, dtype=dtype)
    if dtype != torch.bfloat16:  # which has no nextafter
        up, down = (torch.full_like(exact, by) for by in (100.0, -100.0))
        exact = torch.cat([exact, torch.nextafter(exact, up), torch.nextafter(exact, down)])
    return torch.cat([exact, 4 * torch.randn(200).to(dtype)])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layer", [nn.Hardsigmoid(), nn.Hardsigmoid(inplace=True)], ids=str)
def test_values_and_slopes_are_those_of_torch_to_the_bit(
    layer: nn.Module, dtype: torch.dtype
) -> None:
    x, found = near_kinks(dtype), []
    weights = torch.randn(len(x)).to(dtype)
    for kernels in (Kernels(), FORMULAS):
        source = x.clone().requires_grad_()
        with second_derivatives(kernels):
            y = layer(source * 1)
        (gradient,) = torch.autograd.grad(y, source, weights)
        found.append((y.detach(), gradient))
    for own, mine in zip(*found, strict=True):
        assert torch.equal(own.nan_to_num(7.0), mine.nan_to_num(7.0))


def test_in_place_means_in_place() -> None:
    x = torch.randn(5, requires_grad=True)
    with second_derivatives(FORMULAS):
        hidden = x * 2
        result = F.hardsigmoid(hidden, inplace=True)
    assert result is hidden
    assert torch.equal(hidden, F.hardsigmoid(2 * x))


@pytest.mark.parametrize("function", [F.hardsigmoid, F.hardswish])
@pytest.mark.parametrize("inplace", [False, True])
def test_second_derivatives_are_those_of_differences(
    function: Callable[[Tensor, bool], Tensor], inplace: bool
) -> None:
    x = 4 * torch.randn(60)
    x = x[((x.abs() - 3).abs() > 0.01)].requires_grad_()
    assert (x.abs() < 3).any() and (x.abs() > 3).any()

    # Torch alone has a gradient; its differences are the judge.
    def first(by: float) -> Tensor:
        moved = (x + by * torch.cos(x)).detach().requires_grad_()
        y = function(moved * 1.0, inplace)
        return torch.autograd.grad((y * torch.sin(y)).sum(), moved)[0]

    _, _, (second,) = twice(lambda: function(x * 1.0, inplace), [x], FORMULAS)
    expected = (first(1e-6) - first(-1e-6)) / 2e-6
    torch.testing.assert_close(second, expected, rtol=1e-6, atol=1e-8)


def test_torch_alone_refuses_it() -> None:
    """Should this fail one day, the replacement can go."""
    x = torch.randn(5, requires_grad=True)
    with pytest.raises(RuntimeError, match="hardsigmoid_backward is not implemented"):
        differentiate_twice([F.hardsigmoid(x).sum()], [x])
    with second_derivatives(FORMULAS):
        differentiate_twice([F.hardsigmoid(x).sum()], [x])


class Squeezed(nn.Module):
    """Squeeze and excitation as in MobileNetV3, with either the layers or their formulas."""

    def __init__(self, formulas: bool) -> None:
        super().__init__()
        self.first, self.gate, self.last = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.formulas, self.soft = formulas, nn.Hardsigmoid(inplace=True)
        self.swish = nn.Hardswish(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        hidden = 3 * self.first(x)
        hidden = hidden * gate(hidden) if self.formulas else self.swish(hidden)
        scale = (gate if self.formulas else self.soft)(3 * self.gate(hidden))
        return self.last(hidden * scale)


def gate(x: Tensor) -> Tensor:
    return torch.where(x <= -3, 0.0, torch.where(x >= 3, 1.0, x / 6 + 0.5))


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_a_run_equals_the_unrolled_run_of_the_formulas(mode: str) -> None:
    model = Squeezed(formulas=False)
    unrolled = Squeezed(formulas=True)
    unrolled.load_state_dict(copy.deepcopy(model.state_dict()))
    data, validation = batches(20), batch(20)
    update = SGD(Schedule("lr", [0.2, 0.1]), Schedule("momentum", [0.5]))
    loss, expected = oracle_gradient(unrolled, loss_fn, update, data, lambda of: of(validation))
    result = hypergradient(model, loss_fn, update, data, validation, steps=20, mode=mode)
    assert kernels_for(model).formulas
    # Torch multiplies gradients by 1/6 in single precision, whatever theirs is.
    assert result.loss == pytest.approx(loss, rel=1e-8)
    assert relative_error(result.gradient, expected) < 1e-7
