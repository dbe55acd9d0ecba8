"""Whether something can be differentiated twice, found out by doing it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.autograd.graph import Node

from optuna_hypergrad.autodiff.kernels.weight_norm import NODE as WRONG


def differentiate_twice(outputs: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Differentiates ``outputs`` twice with respect to ``sources``, and drops the result.

    Unlike ``torch.autograd.grad`` by itself, this notices torch's own weight norm, whose second
    derivative is wrong, and functions of the user's own that are marked ``@once_differentiable``.
    Asked for certain derivatives only, torch passes over the node
    that would raise, and takes the gradients of such functions for constants without a word.

    Args:
        outputs: Tensors of any shape that require a gradient, such as ``[loss]``.
        sources: Tensors that require a gradient, such as a model's parameters.

    Raises:
        RuntimeError: If there is no second derivative; in torch's words, as far as it has any.

    Example:
        >>> import torch
        >>> x = torch.ones(2, requires_grad=True)
        >>> differentiate_twice([x.exp().sum()], [x])
    """
    if not outputs or not sources:
        return
    if any(node.name().startswith(WRONG) for node in _nodes(outputs)):
        raise RuntimeError("torch's weight norm has a wrong second derivative")
    # Weights that require gradients themselves, for else a last operation without a second
    # derivative passes for one whose gradient is a constant.
    weights = [torch.ones_like(output, requires_grad=True) for output in outputs]
    slopes = torch.autograd.grad(outputs, sources, weights, create_graph=True, allow_unused=True)
    if any(slope is not None and slope.layout != torch.strided for slope in slopes):
        raise RuntimeError("its gradient is sparse")
    curved = [slope for slope in slopes if slope is not None and slope.requires_grad]
    if any(node.name() == "torch::autograd::Error" for node in _nodes(curved)):
        raise RuntimeError("a torch.autograd.Function in it is marked @once_differentiable")
    along = [torch.ones_like(slope) for slope in curved]
    torch.autograd.grad(curved, [*sources, *weights], along, allow_unused=True)


def _nodes(tensors: Sequence[Tensor]) -> Iterator[Node]:
    """Every operation that ``tensors`` came from, each once."""
    seen: set[Node] = set()
    left = [t.grad_fn for t in tensors]
    while left:
        node = left.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            left.extend(following for following, _ in node.next_functions)
