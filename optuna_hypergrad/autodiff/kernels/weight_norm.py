"""Weight norm by its formula, because torch's own has a wrong second derivative.

Torch takes the norms that its kernel saves for constants when the gradient is differentiated again,
and gives a result without a word (found in torch 2.15).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _WeightNorm
from torch.nn.utils.weight_norm import WeightNorm

NODE = "WeightNormInterfaceBackward"
"""How the names of nodes of torch's own begin in a graph."""


def weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """g·v/‖v‖, the norm taken over all dimensions but one.

    Args:
        v: Directions, any shape.
        g: Lengths, of size 1 in each dimension but ``dim``.
        dim: The dimension that keeps its own lengths; −1 for one length over all.

    Example:
        >>> import torch
        >>> v = torch.tensor([[3.0, 4.0]], requires_grad=True)
        >>> w = weight_norm(v, torch.ones(1, 1))
        >>> slope, = torch.autograd.grad(w[0, 0], v, create_graph=True)  # v₂²/‖v‖³ of the first
        >>> torch.autograd.grad(slope[0, 0], v)[0][0, 0]                 # −3·v₁·v₂²/‖v‖⁵
        tensor(-0.0461)
    """
    return v * (g / torch.norm_except_dim(v, 2, dim))


def is_weight_normed(module: nn.Module) -> bool:
    """Whether the module's weights are normed, by a parametrisation or by a hook."""
    hooks = module._forward_pre_hooks.values()
    return isinstance(module, _WeightNorm) or any(isinstance(h, WeightNorm) for h in hooks)
