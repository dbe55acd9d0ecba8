"""A model's learned weights as one vector, and the gradient of a loss in the same shape."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from optuna_hypergrad.arguments import check_kind

Gradients = Sequence[Tensor | None]  # one per parameter; None where the loss does not reach it
Reached = tuple[bool, ...]  # one per parameter: does the loss reach it?


class FlatWeights:
    """The parameters of a model that require a gradient, read and written as one vector.

    Tied parameters count once; those with ``requires_grad=False`` stay out. The model itself
    always holds the current weights, so it can be used and inspected at any moment.

    Raises:
        ValueError: If no parameter requires a gradient, they differ in dtype or device, or
            are neither dense nor of float32 or float64, or have no shape yet (lazy modules).
    """

    def __init__(self, model: nn.Module) -> None:
        check_kind("model", model, nn.Module, "a torch.nn.Module")
        named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if not named:
            raise ValueError("model: none of its parameters requires a gradient.")
        self.named, self.names, self.parameters = named, list(named), list(named.values())
        for name, p in named.items():
            _check_parameter(name, p)
        kinds = {(p.dtype, p.device) for p in self.parameters}
        if len(kinds) > 1:
            raise ValueError(f"model: its parameters differ in dtype or device: {kinds}.")
        self._sizes = [p.numel() for p in self.parameters]

    def __len__(self) -> int:
        """Number of weights, D."""
        return sum(self._sizes)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.parameters[0].device

    def read(self) -> Tensor:
        """A copy of the weights, shape (D,)."""
        return torch.cat([p.detach().reshape(-1) for p in self.parameters])

    def write(self, vector: Tensor) -> None:
        """Give the model the weights in ``vector``."""
        with torch.no_grad():
            for parameter, values in zip(self.parameters, self.split(vector), strict=True):
                parameter.copy_(values)
        torch.clear_autocast_cache()  # of copies in half precision, where all runs under autocast

    def split(self, vectors: Tensor) -> list[Tensor]:
        """Vectors of shape (…, D) as one view for each parameter, shape (…, *parameter)."""
        batch = vectors.shape[:-1]
        parts = torch.split(vectors, self._sizes, dim=-1)
        pairs = zip(parts, self.parameters, strict=True)
        return [part.view((*batch, *p.shape)) for part, p in pairs]

    def join(self, tensors: Sequence[Tensor | None], batch: tuple[int, ...] = ()) -> Tensor:
        """One tensor for each parameter as vectors, shape (*batch, D); None counts as zero."""
        for name, tensor in zip(self.names, tensors, strict=True):
            if tensor is not None and tensor.layout != torch.strided:
                raise ValueError(
                    f"model: the gradient of {name} is sparse, expected a dense one; build its "
                    "nn.Embedding with sparse=False."
                )
        parts = [
            p.new_zeros((*batch, p.numel())) if t is None else t.detach().reshape(*batch, p.numel())
            for t, p in zip(tensors, self.parameters, strict=True)
        ]
        return torch.cat(parts, dim=-1)

    def reached(self, flags: Reached) -> Tensor | None:
        """Which entries the loss reaches, shape (D,); None where these are all."""
        if all(flags):
            return None
        pairs = zip(self._sizes, flags, strict=True)
        return torch.cat([torch.full((n,), flag, device=self.device) for n, flag in pairs])


def _check_parameter(name: str, parameter: nn.Parameter) -> None:
    if is_lazy(parameter):
        raise ValueError(
            f"model: {name} has no shape yet; call the model once on a batch, so that its lazy "
            "modules make their parameters."
        )
    if parameter.layout != torch.strided:
        raise ValueError(f"model: {name} is {parameter.layout}, expected a dense parameter.")
    if parameter.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"model: {name} is {parameter.dtype}, expected float32 or float64; for half precision, "
            "use torch.autocast in the loss function."
        )
