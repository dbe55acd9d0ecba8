import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from autodiff.second_order.problems import twice
from optuna_hypergrad.autodiff.second_order.double_differentiable import differentiate_twice
from optuna_hypergrad.autodiff.second_order.switching import (
    Kernels,
    candidates,
    kernels_for,
    second_derivatives,
)

FORMULA = Kernels(formulas=True)


def hooked(layer: nn.Module, dim: int | None) -> nn.Module:
    with warnings.catch_warnings(action="ignore"):  # torch deprecates it, models still use it
        return nn.utils.weight_norm(layer, dim=dim)


def parametrised(layer: nn.Module, dim: int | None) -> nn.Module:
    return weight_norm(layer, dim=dim)


@pytest.mark.parametrize("dim", [0, 1, None])
@pytest.mark.parametrize("norm", [hooked, parametrised])
def test_second_derivatives_are_right_where_those_of_torch_are_wrong(
    norm: Callable[[nn.Module, int | None], nn.Module], dim: int | None
) -> None:
    layer, x = norm(nn.Linear(4, 3), dim), torch.randn(5, 4)
    assert kernels_for(layer).formulas
    parameters = list(layer.parameters())
    value, first, second = twice(lambda: layer(x), parameters, FORMULA)
    own_value, own_first, own_second = twice(lambda: layer(x), parameters, Kernels())
    for mine, own in zip([value, *first], [own_value, *own_first], strict=True):
        torch.testing.assert_close(mine, own, rtol=1e-12, atol=1e-12)
    directions, epsilon = [torch.cos(p.detach()) for p in parameters], 1e-6

    def gradients(by: float) -> list[Tensor]:
        with torch.no_grad():
            for p, z in zip(parameters, directions, strict=True):
                p.add_(by * z)
        return twice(lambda: layer(x), parameters, FORMULA)[1]

    up, down = gradients(epsilon), gradients(-2 * epsilon)
    expected = [(a - b).detach() / (2 * epsilon) for a, b in zip(up, down, strict=True)]
    torch.testing.assert_close(second, expected, rtol=1e-6, atol=1e-7)
    if dim == 0:  # torch does without its kernel otherwise; should this fail one day, rejoice
        errors = [float((a - b).norm()) for a, b in zip(own_second, expected, strict=True)]
        assert max(errors) > 0.01


def test_a_call_that_no_module_shows_is_noticed() -> None:
    v, g = torch.randn(3, 4, requires_grad=True), torch.ones(3, 1)
    with pytest.raises(RuntimeError, match="weight norm has a wrong second derivative"):
        differentiate_twice([torch._weight_norm(v, g, 0).sum()], [v])
    assert candidates(nn.Linear(1, 1), torch.device("cpu"))[1].formulas
    with second_derivatives(FORMULA):
        differentiate_twice([torch._weight_norm(v, g, 0).sum()], [v])
