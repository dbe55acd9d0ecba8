"""Replaced operations: values and gradients as torch's, second derivatives by differences."""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from autodiff.oracle import oracle_gradient, relative_error
from autodiff.problems import batch, batches, loss_fn
from autodiff.second_order.problems import assert_same_at_once, twice
from optuna_hypergrad import Schedule
from optuna_hypergrad.autodiff import SGD, hypergradient
from optuna_hypergrad.autodiff.second_order.double_differentiable import differentiate_twice
from optuna_hypergrad.autodiff.second_order.switching import (
    Kernels,
    candidates,
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
def test_values_and_gradients_are_those_of_torch_to_the_bit(
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
def test_second_derivatives_of_hardsigmoid_are_those_of_differences(
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


def test_many_products_of_hardsigmoid_at_once() -> None:
    x = 4 * torch.randn(60, requires_grad=True)
    with second_derivatives(FORMULAS):
        loss = torch.sin(F.hardsigmoid(x)).sum()
    assert_same_at_once(torch.autograd.grad(loss, x, create_graph=True), [x])


def test_torch_alone_refuses_it() -> None:
    """If this fails one day, the replacement can go."""
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


WORDS, OFFSETS = 6, torch.tensor([0, 2, 2, 5, 7])  # an empty bag, and an empty last one
FLAT = torch.tensor([1, 0, 3, 3, 5, 0, 2])
BAGS = torch.tensor([[1, 0, 3], [3, 5, 5]])

BAG_CALLS: dict[str, dict[str, Any]] = {
    "rows": {"input": BAGS},
    "offsets": {"input": FLAT, "offsets": OFFSETS},
    "int32": {"input": FLAT.int(), "offsets": OFFSETS.int()},
    "last offset": {"input": FLAT, "offsets": OFFSETS, "include_last_offset": True},
    "padding": {"input": BAGS, "padding_idx": 3},
    "padding from the end": {"input": FLAT, "offsets": OFFSETS, "padding_idx": -1},
}


@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("name", BAG_CALLS)
def test_bags_equal_torch_and_differences_of_its_gradients(name: str, mode: str) -> None:
    weight = torch.randn(WORDS, 4, requires_grad=True)

    def bag(weight: Tensor) -> Tensor:
        return F.embedding_bag(weight=weight, mode=mode, **BAG_CALLS[name])

    value, first, second = twice(lambda: bag(weight), [weight], FORMULAS)
    own, own_first = once(bag(weight), weight)
    torch.testing.assert_close(value, own, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(first[0], own_first, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(second[0], differences(bag, weight), rtol=1e-6, atol=1e-8)


def test_factors_of_the_words_of_a_bag() -> None:
    factors = torch.randn(BAGS.shape, requires_grad=True)
    weight = torch.randn(WORDS, 4, requires_grad=True)

    def bag(weight: Tensor, factors: Tensor) -> Tensor:
        return F.embedding_bag(BAGS, weight, mode="sum", per_sample_weights=factors)

    value, first, second = twice(lambda: bag(weight, factors), [weight, factors], FORMULAS)
    own = bag(weight, factors)
    torch.testing.assert_close(value, own, rtol=1e-13, atol=1e-13)
    expected = torch.autograd.grad((own * torch.sin(own)).sum(), [weight, factors])
    torch.testing.assert_close(first, list(expected), rtol=1e-13, atol=1e-13)
    joint = torch.cat([weight.flatten(), factors.flatten()]).detach().requires_grad_()

    def both(joint: Tensor) -> Tensor:
        parts = joint.split([weight.numel(), factors.numel()])
        return bag(parts[0].view_as(weight), parts[1].view_as(factors))

    found = torch.cat([part.flatten() for part in second])
    torch.testing.assert_close(found, differences(both, joint), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    "layer",
    [
        nn.EmbeddingBag(6, 4, mode="max"),
        nn.EmbeddingBag(6, 4, mode="sum", sparse=True),
        nn.EmbeddingBag(6, 4, mode="sum", scale_grad_by_freq=True),
        nn.EmbeddingBag(6, 4, mode="mean", max_norm=1.0),
    ],
    ids=str,
)
def test_other_bags_are_left_to_torch(layer: nn.Module) -> None:
    layer.double()
    assert kernels_for(layer).formulas
    with second_derivatives(FORMULAS):
        assert "EmbeddingBag" in str(layer(BAGS).grad_fn)


def once(outputs: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
    """A value and its gradient, of the loss of ``twice``."""
    return outputs, torch.autograd.grad((outputs * torch.sin(outputs)).sum(), source)[0]


def differences(function: Any, source: Tensor, e: float = 1e-6) -> Tensor:
    """The product of the Hessian with cos(source), from torch's gradients."""

    def gradient(by: float) -> Tensor:
        moved = (source + by * torch.cos(source)).detach().requires_grad_()
        return once(function(moved), moved)[1]

    return (gradient(e) - gradient(-e)) / (2 * e)


def hooked(layer: nn.Module, dim: int | None) -> nn.Module:
    with warnings.catch_warnings(action="ignore"):  # torch deprecates it, models still use it
        return nn.utils.weight_norm(layer, dim=dim)


def parametrised(layer: nn.Module, dim: int | None) -> nn.Module:
    return weight_norm(layer, dim=dim)


@pytest.mark.parametrize("dim", [0, 1, None])
@pytest.mark.parametrize("norm", [hooked, parametrised])
def test_weight_norm_is_right_where_that_of_torch_is_wrong(
    norm: Callable[[nn.Module, int | None], nn.Module], dim: int | None
) -> None:
    layer, x = norm(nn.Linear(4, 3), dim), torch.randn(5, 4)
    assert kernels_for(layer).formulas
    parameters = list(layer.parameters())
    value, first, second = twice(lambda: layer(x), parameters, FORMULAS)
    own_value, own_first, own_second = twice(lambda: layer(x), parameters, Kernels())
    for mine, own in zip([value, *first], [own_value, *own_first], strict=True):
        torch.testing.assert_close(mine, own, rtol=1e-12, atol=1e-12)
    directions, epsilon = [torch.cos(p.detach()) for p in parameters], 1e-6

    def gradients(by: float) -> list[Tensor]:
        with torch.no_grad():
            for p, z in zip(parameters, directions, strict=True):
                p.add_(by * z)
        return twice(lambda: layer(x), parameters, FORMULAS)[1]

    up, down = gradients(epsilon), gradients(-2 * epsilon)
    expected = [(a - b).detach() / (2 * epsilon) for a, b in zip(up, down, strict=True)]
    torch.testing.assert_close(second, expected, rtol=1e-6, atol=1e-7)
    if (
        dim == 0
    ):  # torch does without its kernel otherwise; if this fails one day, the replacement can go
        errors = [float((a - b).norm()) for a, b in zip(own_second, expected, strict=True)]
        assert max(errors) > 0.01


def test_a_call_that_no_module_shows_is_noticed() -> None:
    v, g = torch.randn(3, 4, requires_grad=True), torch.ones(3, 1)
    with pytest.raises(RuntimeError, match="weight norm has a wrong second derivative"):
        differentiate_twice([torch._weight_norm(v, g, 0).sum()], [v])
    assert candidates(nn.Linear(1, 1), torch.device("cpu"))[1].formulas
    with second_derivatives(FORMULAS):
        differentiate_twice([torch._weight_norm(v, g, 0).sum()], [v])
