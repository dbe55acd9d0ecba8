"""Hessian × tangent products: the one costly thing in forward mode.

The training gradient is computed once with its graph. Each product H·z is the derivative of that
gradient along the (symmetric) Hessian, one backward pass through the same graph, whatever the
number of columns. Masks that dropout drew and statistics that batch norm took belong to the
graph, so weights and tangents see the same ones.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from optuna_hypergrad.autodiff.weights import FlatWeights, Gradients

Products = Literal["auto", "loop", "batched"]

# Convolutions and recurrent kernels gain nothing from batching over columns on a CPU and need
# memory for all columns at once; products of small matrices become one larger product.
_HEAVY = (nn.modules.conv._ConvNd, nn.RNNBase)


def choose_products(model: nn.Module, products: Products) -> Products:
    """How to take the products for ``model``: ``"loop"`` or ``"batched"``."""
    if products not in get_args(Products):
        raise ValueError(f"products must be one of {get_args(Products)}, got {products!r}.")
    if products != "auto":
        return products
    return "loop" if any(isinstance(m, _HEAVY) for m in model.modules()) else "batched"


def hessian_products(
    weights: FlatWeights, gradients: Gradients, columns: Tensor, products: Products
) -> Tensor:
    """H·Z for the graph that ``gradients`` were computed with.

    Args:
        weights: The model's weights, of which the gradients were taken.
        gradients: The training gradient, differentiable (``FlatWeights.gradients(twice=True)``).
        columns: Z, shape (N, D).
        products: ``"loop"``: one backward pass after the other; ``"batched"``: one over all rows.

    Returns:
        H·Z, shape (N, D). Entries of weights that the gradient does not depend on are zero.
    """
    along = weights.split(columns)
    pairs = zip(gradients, along, strict=True)
    curved = [(g, z) for g, z in pairs if g is not None and g.requires_grad]
    if not curved:
        return torch.zeros_like(columns)

    def backward(directions: list[Tensor], *, batched: bool) -> tuple[Tensor | None, ...]:
        return torch.autograd.grad(
            [g for g, _ in curved],
            weights.parameters,
            directions,
            retain_graph=True,
            allow_unused=True,
            is_grads_batched=batched,
        )

    if products == "batched":
        return weights.join(backward([z for _, z in curved], batched=True), (len(columns),))
    rows = [backward([z[n] for _, z in curved], batched=False) for n in range(len(columns))]
    return torch.stack([weights.join(row) for row in rows])
