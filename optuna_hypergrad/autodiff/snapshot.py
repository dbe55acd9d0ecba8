"""What a training step depends on besides weights, batch and hyperparameters: read and put back.

These are the buffers of the model, the modes of its modules, and the states of all random number
generators that a step may draw from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from optuna_hypergrad.autodiff.generators import GeneratorStates

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes


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
        return sum(part.nbytes for part in _dense_parts(self.values))

    def same_values_as(self, other: Buffer) -> bool:
        """Whether both hold the same values, possibly in different tensors."""
        return same_bits(self.values, other.values)


def buffers_of(modules: Iterable[nn.Module], before: tuple[Buffer, ...] = ()) -> tuple[Buffer, ...]:
    """All buffers of the modules, also those that are None so far.

    Those unchanged since ``before`` are shared.
    """
    tensors = {
        (id(module), name): (module, tensor)
        for module in modules
        for name, tensor in module._buffers.items()
    }
    known = [(key, b) for b in before if (key := (id(b.module), b.name)) in tensors]
    kept = [(key, b) for key, b in known if tensors[key][1] is b.tensor]
    same = _are_same([(b.tensor, b.values) for _, b in kept])
    shared = {key: b for (key, b), is_same in zip(kept, same, strict=True) if is_same}
    return tuple(
        shared.get((owner, name))
        or Buffer(module, name, tensor, None if tensor is None else tensor.detach().clone())
        for (owner, name), (module, tensor) in tensors.items()
    )


def put_back(buffers: tuple[Buffer, ...]) -> None:
    """Give the modules the tensors that they had, with their values.

    Some models replace a buffer by a new tensor, even of another shape. Unchanged tensors are not
    written to: expanded tensors and those of inference mode cannot be.
    """
    for buffer in buffers:
        setattr(buffer.module, buffer.name, buffer.tensor)
    pairs = [(b.tensor, b.values) for b in buffers]
    for (tensor, values), is_same in zip(pairs, _are_same(pairs), strict=True):
        if tensor is not None and values is not None and not is_same:
            with torch.no_grad():
                tensor.copy_(values)


def _are_same(pairs: Sequence[tuple[Tensor | None, Tensor | None]]) -> list[bool]:
    """Whether the tensors of each pair hold the same numbers; a device is read from once."""
    found: dict[int, bool] = {}
    changes: dict[int, Tensor] = {}  # on the device
    for i, (first, second) in enumerate(pairs):
        if first is None or second is None or not _are_elsewhere(first, second):
            found[i] = same_bits(first, second)
        else:
            changes[i] = (_bits(first) != _bits(second)).any()
    if changes:
        has_changed = torch.stack(list(changes.values())).tolist()
        found |= {i: not one for i, one in zip(changes, has_changed, strict=True)}
    return [found[i] for i in range(len(pairs))]


def _are_elsewhere(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors are dense ones of a kind, on another device than the CPU."""
    if first.device.type == "cpu" or first.is_meta or first.layout != torch.strided:
        return False
    is_special = first.is_quantized or first.is_nested
    return not is_special and (first.shape, first.dtype) == (second.shape, second.dtype)


def _bits(tensor: Tensor) -> Tensor:
    """The numbers as integers of the same size, of which NaN equals NaN."""
    real = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
    return real.detach().view(_INTEGERS[real.element_size()])


def same_bits(first: Tensor | None, second: Tensor | None) -> bool:
    """Whether two tensors of any layout hold the same numbers; NaN equals NaN."""
    if first is None or second is None:
        return first is second
    parts, others = _dense_parts(first), _dense_parts(second)
    if first.layout != second.layout or len(parts) != len(others):
        return False
    return all(_equal(a, b) for a, b in zip(parts, others, strict=True))


def _equal(first: Tensor, second: Tensor) -> bool:
    if torch.equal(first, second):
        return True
    if first.shape != second.shape or first.is_quantized:
        return False
    flat = (t.resolve_conj().resolve_neg().reshape(-1).contiguous() for t in (first, second))
    return torch.equal(*(t.view(torch.uint8) for t in flat))  # NaN differs from itself, bits do not


def _dense_parts(tensor: Tensor | None) -> list[Tensor]:
    """The dense tensors that hold the numbers of a tensor of any layout."""
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


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The states of the generators, copies of the buffers and the modules' modes."""

    generators: GeneratorStates
    buffers: tuple[Buffer, ...]
    modes: tuple[bool, ...]

    def bytes_beside(self, other: Snapshot) -> int:
        """Memory that this takes in addition to ``other``, with which it may share parts."""
        shared = set(map(id, other.buffers))
        new = sum(buffer.bytes for buffer in self.buffers if id(buffer) not in shared)
        return new + self.generators.bytes_beside(other.generators)


class Snapshotter:
    """Takes and restores snapshots of one model.

    Args:
        model: The model.
        device: Where its weights are.
        own: Generators that the data draw from.
    """

    def __init__(
        self, model: nn.Module, device: torch.device, own: Sequence[torch.Generator] = ()
    ) -> None:
        self._modules, self._device, self._own = list(model.modules()), device, own

    def now(self, before: Snapshot | None = None) -> Snapshot:
        """The present state; what has not changed since ``before`` is shared with it."""
        modes = tuple(module.training for module in self._modules)
        if before is None:
            generators = GeneratorStates.now(self._device, self._own)
            return Snapshot(generators, buffers_of(self._modules), modes)
        return Snapshot(
            GeneratorStates.now(self._device, self._own, before.generators),
            buffers_of(self._modules, before.buffers),
            before.modes if modes == before.modes else modes,
        )

    def restore(self, snapshot: Snapshot, *, generators: bool = True) -> None:
        """Put a snapshot back, with or without the states of the generators."""
        if generators:
            snapshot.generators.restore()
        put_back(snapshot.buffers)
        for module, mode in zip(self._modules, snapshot.modes, strict=True):
            if module.training != mode:
                module.training = mode

    @contextmanager
    def unchanged(self, *, generators: bool = True) -> Iterator[Snapshot]:
        """Leave no trace: within it, anything may run; afterwards all is as before.

        Args:
            generators: Whether the generators count, too.
        """
        before = self.now()
        try:
            yield before
        finally:
            self.restore(before, generators=generators)
