"""Directions in which weights are moved to see what follows."""

from __future__ import annotations

import torch
from torch import Tensor


def direction_at(point: Tensor, gradient: Tensor | None = None) -> Tensor:
    """A random direction, the same each time, as long as the weights are.

    With a part along the gradient: where a factor of the loss counts as constant, that is where
    the derivative lacks most.
    """
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(len(point), generator=generator, dtype=point.dtype).to(point.device)
    direction = direction / direction.norm()
    if gradient is not None and gradient.isfinite().all() and gradient.any():
        direction = direction + 0.5 * gradient / gradient.norm()  # cancels nothing, even in 1-D
    scaled: Tensor = direction * point.norm().clamp_min(1e-3)
    return scaled
