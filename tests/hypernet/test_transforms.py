"""Natural and unconstrained values."""

import math

import pytest
import torch

from optuna_hypergrad.hypernet import Bounded, Discrete, Log, Positive, Transform

SMOOTH = [
    (Bounded(-1.0, 3.0), 0.2),
    (Log(1e-4, 10.0), 0.03),
    (Positive(), 1e-3),
    (Positive(2.0), 800.0),
]


@pytest.mark.parametrize("transform, value", [*SMOOTH, (Discrete(-2, 4), 3)])
def test_values_are_restored(transform: Transform, value: float) -> None:
    u = torch.tensor(transform.unconstrain(value))
    assert float(transform.constrain(u)) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("transform, value", SMOOTH)
def test_derivatives_are_those_of_finite_differences(transform: Transform, value: float) -> None:
    u = torch.tensor(transform.unconstrain(value), requires_grad=True)
    assert torch.autograd.gradcheck(transform.constrain, u)


def test_discrete_values_are_floors_with_the_derivative_of_the_bounded_value() -> None:
    discrete, under = Discrete(1, 3), Bounded(1, 4)
    u = torch.linspace(-50, 50, 400, requires_grad=True)
    values = discrete.constrain(u)
    assert set(values.tolist()) == {1.0, 2.0, 3.0}
    expected = under.constrain(u)
    torch.testing.assert_close(values[u < 30], expected[u < 30].floor())
    derivatives = [torch.autograd.grad(y.sum(), u)[0] for y in (values, expected)]
    torch.testing.assert_close(*derivatives)


@pytest.mark.parametrize(
    "transform, bound, inside",
    [
        (Bounded(0.0, 0.9), 0.0, 0.0009),
        (Bounded(0.0, 0.9), 0.9, 0.8991),
        (Bounded(0.0, 0.9), 0.9 + 1e-8, 0.8991),  # a float32's rounding
        (Log(1e-3, 1.0), 1.0, 10 ** (-3 * 1e-3)),
        (Positive(), 0.0, 1e-6),
    ],
)
def test_values_at_a_bound_are_moved_inside(
    transform: Transform, bound: float, inside: float
) -> None:
    u = torch.tensor(transform.unconstrain(bound))
    assert float(transform.constrain(u)) == pytest.approx(inside)


@pytest.mark.parametrize(
    "transform, value",
    [
        (Bounded(0.0, 1.0), 1.1),
        (Bounded(0.0, 1.0), math.nan),
        (Log(0.1, 1.0), -1.0),
        (Positive(), -0.1),
        (Positive(), math.inf),
        (Discrete(0, 4), 5),
    ],
)
def test_values_out_of_range_are_refused(transform: Transform, value: float) -> None:
    with pytest.raises(ValueError, match=r"value must lie in the range of .*, got "):
        transform.unconstrain(value)


def test_bad_bounds_are_refused() -> None:
    with pytest.raises(ValueError, match=r"low must be below high, got Bounded\(low=1"):
        Bounded(1.0, 1.0)
    with pytest.raises(ValueError, match="low must be positive and below high"):
        Log(0.0, 1.0)
    with pytest.raises(ValueError, match="low and high must be integers"):
        Discrete(0.5, 2)
    with pytest.raises(ValueError, match=r"value must be an integer .* got 1.5"):
        Discrete(0, 4).unconstrain(1.5)
