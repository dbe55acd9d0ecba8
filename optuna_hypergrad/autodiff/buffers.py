"""The buffers of a model, and how to put them back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Buffer:
    """One buffer of one module: the tensor that it was, and a copy of its values."""

    module: nn.Module
    name: str
    tensor: Tensor | None
    values: Tensor | None

    def same_as(self, other: Buffer) -> bool:
        """Whether both hold the same values of the same tensor."""
        if self.module is not other.module or self.tensor is not other.tensor:
            return False
        return self.tensor is None or _equal(self.tensor, other.values)

    def same_values_as(self, other: Buffer) -> bool:
        """Whether both hold the same values, of whatever tensors."""
        if self.values is None or other.values is None:
            return self.values is other.values
        return _equal(self.values, other.values)


def buffers_of(model: nn.Module, before: tuple[Buffer, ...] = ()) -> tuple[Buffer, ...]:
    """All buffers, also those that are None so far; what is as ``before`` is kept once."""
    known = {(id(b.module), b.name): b for b in before}
    return tuple(
        _kept(Buffer(module, name, tensor, None), known.get((id(module), name)))
        for module in model.modules()
        for name, tensor in module._buffers.items()
    )


def put_back(buffers: tuple[Buffer, ...]) -> None:
    """Give the modules the tensors that they had, with their values.

    Some models put a new tensor in the place of a buffer, of another shape even.
    """
    for buffer in buffers:
        setattr(buffer.module, buffer.name, buffer.tensor)
        if buffer.tensor is not None and buffer.values is not None:
            with torch.no_grad():
                buffer.tensor.copy_(buffer.values)


def _kept(now: Buffer, before: Buffer | None) -> Buffer:
    if before is not None and now.same_as(before):
        return before
    values = None if now.tensor is None else now.tensor.detach().clone()
    return Buffer(now.module, now.name, now.tensor, values)


def _equal(tensor: Tensor, values: Tensor | None) -> bool:
    return values is not None and torch.equal(tensor.detach(), values)
