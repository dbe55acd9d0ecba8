"""LSTMs with a second derivative of their own, beside torch's."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from autodiff.second_order.problems import FUSED, assert_same_at_once
from optuna_hypergrad.autodiff.second_order import recurrent
from optuna_hypergrad.autodiff.second_order.double_differentiable import nodes
from optuna_hypergrad.autodiff.second_order.switching import Kernels, second_derivatives

LAYERS: dict[str, dict[str, Any]] = {
    "one": {},
    "without biases": {"bias": False, "batch_first": True},
    "both directions": {"num_layers": 2, "bidirectional": True, "batch_first": True},
    "dropout": {"num_layers": 3, "dropout": 0.5},
}


def layer_and_inputs(options: dict[str, Any]) -> tuple[nn.LSTM, list[Tensor]]:
    torch.manual_seed(0)
    layer = nn.LSTM(5, 4, **options).double()
    n_states = layer.num_layers * (2 if layer.bidirectional else 1)
    batch = 6 if layer.batch_first else 3  # the input is of (6, 3) elements either way
    shapes = [(6, 3, 5), (n_states, batch, 4), (n_states, batch, 4)]
    return layer, [torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in shapes]


def derivatives(kernels: Kernels, options: dict[str, Any], order: int) -> list[Tensor]:
    """What a layer computes, and derivatives of it up to an order, along random directions."""
    layer, (x, h, c) = layer_and_inputs(options)
    torch.manual_seed(1)  # for dropout
    with second_derivatives(kernels):
        y, (h_n, c_n) = layer(x, (h, c))
    wanted = [x, h, c, *layer.parameters()]
    found = [y, h_n, c_n]
    torch.manual_seed(2)
    latest: Any = found
    for _ in range(order):
        total = sum((one * torch.randn_like(one)).sum() for one in latest)
        latest = torch.autograd.grad(total, wanted, create_graph=True)
        found += latest
    return found


@pytest.mark.parametrize("options", LAYERS.values(), ids=LAYERS)
def test_all_is_as_by_torch_to_the_third_derivative(options: dict[str, Any]) -> None:
    ours, torchs = (derivatives(kernels, options, 3) for kernels in (FUSED, Kernels()))
    torch.testing.assert_close(ours, torchs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("options", LAYERS.values(), ids=LAYERS)
def test_the_second_derivative_by_its_formula_is_that_of_torch(options: dict[str, Any]) -> None:
    found = []
    for kernels in (FUSED, Kernels()):
        layer, (x, h, c) = layer_and_inputs(options)
        torch.manual_seed(1)
        with second_derivatives(kernels):
            y, (_, c_n) = layer(x, (h, c))
        wanted = [x, h, c, *layer.parameters()]
        gradient = torch.autograd.grad(y.square().sum() + c_n.sum(), wanted, create_graph=True)
        torch.manual_seed(2)
        found.append(torch.autograd.grad(gradient, wanted, [*map(torch.randn_like, gradient)]))
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-11)


def test_directions_are_taken_together_by_vmap() -> None:
    layer, (x, h, c) = layer_and_inputs({})
    with second_derivatives(FUSED):
        y, _ = layer(x, (h.detach(), c.detach()))
    assert any("_LSTM" in type(node).__name__ for node in nodes([y]))
    wanted = [*layer.parameters()]
    assert_same_at_once(torch.autograd.grad(y.square().sum(), wanted, create_graph=True), wanted)


def test_what_is_not_for_this_function_is_left_to_torch() -> None:
    torch.manual_seed(0)
    projected, layer = (nn.LSTM(5, 4, proj_size=size).double() for size in (2, 0))
    x = torch.randn(6, 3, 5, dtype=torch.float64)
    packed = pack_padded_sequence(x, torch.tensor([6, 4, 2]))
    with second_derivatives(FUSED):
        ours = [projected(x)[0], layer(packed)[0].data]
        with torch.no_grad():
            ours.append(layer(x)[0])
    with torch.no_grad():
        expected = [projected(x)[0], layer(packed)[0].data, layer(x)[0]]
    assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))
    assert recurrent.lstm(x, x, [], [], 1, 0.0, True, False) is None
