"""A model's learned weights as one vector, and the gradient of a loss in the same shape."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

Gradients = tuple[Tensor | None, ...]  # one per parameter; None where the loss does not reach it


class FlatWeights:
    """The parameters of a model that require a gradient, read and written as one vector.

    Tied parameters count once; those with ``requires_grad=False`` stay out. The model itself
    always holds the current weights, so it can be used and inspected at any moment.

    Raises:
        ValueError: If no parameter requires a gradient, or they differ in dtype or device.
    """

    def __init__(self, model: nn.Module) -> None:
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        if not self.parameters:
            raise ValueError("model: none of its parameters requires a gradient.")
        kinds = {(p.dtype, p.device) for p in self.parameters}
        if len(kinds) > 1:
            raise ValueError(f"model: its parameters differ in dtype or device: {kinds}.")
        self._sizes = [p.numel() for p in self.parameters]

    def read(self) -> Tensor:
        """A copy of the weights, shape (D,)."""
        return torch.cat([p.detach().reshape(-1) for p in self.parameters])

    def write(self, vector: Tensor) -> None:
        """Give the model the weights in ``vector``."""
        with torch.no_grad():
            for parameter, values in zip(self.parameters, self.split(vector), strict=True):
                parameter.copy_(values)

    def gradients(self, loss: Tensor, *, twice: bool = False) -> Gradients:
        """Gradient of ``loss`` by parameter; with ``twice`` it can be differentiated again."""
        if loss.numel() != 1:
            raise ValueError(f"loss_fn must return a scalar, got shape {tuple(loss.shape)}.")
        if not loss.requires_grad:
            raise ValueError("loss_fn: its result does not depend on the model's weights.")
        return torch.autograd.grad(loss, self.parameters, create_graph=twice, allow_unused=True)

    def split(self, vectors: Tensor) -> list[Tensor]:
        """Vectors of shape (…, D) as one view for each parameter, shape (…, *parameter)."""
        batch = vectors.shape[:-1]
        parts = torch.split(vectors, self._sizes, dim=-1)
        pairs = zip(parts, self.parameters, strict=True)
        return [part.view(*batch, *p.shape) for part, p in pairs]

    def join(self, tensors: Sequence[Tensor | None], batch: tuple[int, ...] = ()) -> Tensor:
        """One tensor for each parameter as vectors, shape (*batch, D); None counts as zero."""
        parts = [
            p.new_zeros((*batch, p.numel())) if t is None else t.detach().reshape(*batch, p.numel())
            for t, p in zip(tensors, self.parameters, strict=True)
        ]
        return torch.cat(parts, dim=-1)

    def reached(self, gradients: Gradients) -> Tensor | None:
        """Which entries the loss reaches, shape (D,); None where these are all."""
        if all(gradient is not None for gradient in gradients):
            return None
        flags = [
            torch.full((size,), gradient is not None, device=self.parameters[0].device)
            for size, gradient in zip(self._sizes, gradients, strict=True)
        ]
        return torch.cat(flags)
