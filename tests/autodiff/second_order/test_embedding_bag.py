"""Bags of embeddings: torch's values and gradients, second derivatives by differences."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autodiff.second_order.problems import twice
from optuna_hypergrad.autodiff.second_order.switching import (
    Kernels,
    kernels_for,
    second_derivatives,
)

FORMULAS = Kernels(formulas=True)
WORDS, OFFSETS = 6, torch.tensor([0, 2, 2, 5, 7])  # an empty bag, and an empty last one
FLAT = torch.tensor([1, 0, 3, 3, 5, 0, 2])
BAGS = torch.tensor([[1, 0, 3], [3, 5, 5]])

CALLS: dict[str, dict[str, Any]] = {
    "rows": {"input": BAGS},
    "offsets": {"input": FLAT, "offsets": OFFSETS},
    "int32": {"input": FLAT.int(), "offsets": OFFSETS.int()},
    "last offset": {"input": FLAT, "offsets": OFFSETS, "include_last_offset": True},
    "padding": {"input": BAGS, "padding_idx": 3},
    "padding from the end": {"input": FLAT, "offsets": OFFSETS, "padding_idx": -1},
}


@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("name", CALLS)
def test_equals_torch_and_differences_of_its_slopes(name: str, mode: str) -> None:
    weight = torch.randn(WORDS, 4, requires_grad=True)

    def bag(weight: Tensor) -> Tensor:
        return F.embedding_bag(weight=weight, mode=mode, **CALLS[name])

    value, first, second = twice(lambda: bag(weight), [weight], FORMULAS)
    own, own_first = once(bag(weight), weight)
    torch.testing.assert_close(value, own, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(first[0], own_first, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(second[0], differences(bag, weight), rtol=1e-6, atol=1e-8)


def test_factors_of_the_words() -> None:
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
def test_other_calls_are_left_to_torch(layer: nn.Module) -> None:
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
