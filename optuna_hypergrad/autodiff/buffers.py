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

    @property
    def bytes(self) -> int:
        """Memory of the copy."""
        return sum(part.nbytes for part in _dense(self.values))

    @property
    def changed(self) -> bool:
        """Whether the tensor no longer has the values that were copied."""
        return not _same(self.tensor, self.values)

    def same_as(self, other: Buffer) -> bool:
        """Whether both hold the same values of the same tensor."""
        if self.module is not other.module or self.tensor is not other.tensor:
            return False
        return _same(self.tensor, other.values)

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

    Some models put a new tensor in the place of a buffer, of another shape even. What has not
    changed is not written to: expanded tensors and those of inference mode cannot be.
    """
    for buffer in buffers:
        setattr(buffer.module, buffer.name, buffer.tensor)
        if buffer.tensor is not None and buffer.values is not None and buffer.changed:
            with torch.no_grad():
                buffer.tensor.copy_(buffer.values)


def _kept(now: Buffer, before: Buffer | None) -> Buffer:
    if before is not None and now.same_as(before):
        return before
    values = None if now.tensor is None else now.tensor.detach().clone()
    return Buffer(now.module, now.name, now.tensor, values)


def _same(tensor: Tensor | None, values: Tensor | None) -> bool:
    """Whether two tensors are made of the same numbers, NaN being the same as NaN."""
    if tensor is None or values is None:
        return tensor is values
    mine, other = _dense(tensor), _dense(values)
    if tensor.layout != values.layout or len(mine) != len(other):
        return False
    return all(_equal(a, b) for a, b in zip(mine, other, strict=True))


def _equal(tensor: Tensor, values: Tensor) -> bool:
    if torch.equal(tensor, values):
        return True
    if tensor.shape != values.shape or tensor.is_quantized:
        return False
    return torch.equal(_bits(tensor), _bits(values))  # NaN differs from itself, its bits do not


def _bits(tensor: Tensor) -> Tensor:
    plain = tensor.resolve_conj().resolve_neg()
    return plain.reshape(-1).contiguous().view(torch.uint8)


def _dense(tensor: Tensor | None) -> list[Tensor]:
    """The dense tensors that hold the numbers of one of any layout."""
    if tensor is None or tensor.is_meta:
        return []
    tensor = tensor.detach()
    if tensor.is_nested:
        return list(tensor.unbind())
    if tensor.layout == torch.sparse_coo:
        return [tensor._indices(), tensor._values()]
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return [tensor.ccol_indices(), tensor.row_indices(), tensor.values()]
    return [tensor.to_dense() if tensor.is_mkldnn else tensor]
