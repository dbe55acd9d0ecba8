"""The buffers of a model, and how to put them back.

The state of every random number generator that a training step may draw from.

What a training step depends on besides weights and batch: random numbers, buffers, modes.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
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


@dataclass(frozen=True, eq=False)
class GeneratorStates:
    """States of torch's generators (CPU and the model's device), numpy's and Python's.

    Args:
        torch_states: States of torch's generator of the CPU, of that of the model's device where
            it is another, and of the generators in ``own``.
        numpy_state: State of numpy's global generator.
        python_state: State of the generator of the module ``random``: its version, its numbers
            as an array, and the rest.
        device: The model's device.
        own: Generators of the data's own (those of a ``DataLoader`` and its sampler).
    """

    torch_states: tuple[Tensor, ...]
    numpy_state: tuple[Any, ...]
    python_state: tuple[Any, ...]
    device: torch.device
    own: Sequence[torch.Generator] = ()

    @classmethod
    def now(cls, device: torch.device, own: Sequence[torch.Generator] = ()) -> GeneratorStates:
        """The present states."""
        states = [torch.get_rng_state()]
        if device.type != "cpu":
            states.append(torch.get_device_module(device).get_rng_state(device))
        states += [generator.get_state() for generator in own]
        numpy_state = np.random.get_state(legacy=True)
        assert isinstance(numpy_state, tuple)
        return cls(tuple(states), numpy_state, _packed(random.getstate()), device, own)

    def restore(self) -> None:
        """Put these states back."""
        states = list(self.torch_states)
        torch.set_rng_state(states.pop(0))
        if self.device.type != "cpu":
            torch.get_device_module(self.device).set_rng_state(states.pop(0), self.device)
        for generator, state in zip(self.own, states, strict=True):
            generator.set_state(state)
        np.random.set_state(self.numpy_state)
        version, numbers, rest = self.python_state
        random.setstate((version, tuple(numbers.tolist()), rest))

    def unless_same_as(self, other: GeneratorStates | None) -> GeneratorStates:
        """``other`` where it holds the same states, so that equal ones are kept once."""
        return other if other is not None and self._equals(other) else self

    @property
    def bytes(self) -> int:
        """About how much memory the states take."""
        arrays = (self.numpy_state[1], self.python_state[1])
        return sum(state.nbytes for state in (*self.torch_states, *arrays))

    def _equals(self, other: GeneratorStates) -> bool:
        return (
            self.python_state[2] == other.python_state[2]
            and np.array_equal(self.python_state[1], other.python_state[1])
            and self.numpy_state[2:] == other.numpy_state[2:]
            and np.array_equal(self.numpy_state[1], other.numpy_state[1])
            and all(map(torch.equal, self.torch_states, other.torch_states))
        )


def _packed(state: tuple[Any, ...]) -> tuple[Any, ...]:
    version, numbers, rest = state
    return version, np.array(numbers, dtype=np.uint32), rest


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The states of the generators, copies of the buffers and the modules' modes."""

    randomness: GeneratorStates
    buffers: tuple[Buffer, ...]
    training: tuple[bool, ...]

    def bytes_beside(self, other: Snapshot) -> int:
        """How much memory this takes that ``other`` does not take already."""
        known = {id(buffer) for buffer in other.buffers}
        new = (buffer.bytes for buffer in self.buffers if id(buffer) not in known)
        mine = 0 if self.randomness is other.randomness else self.randomness.bytes
        return mine + sum(new)


class Snapshotter:
    """Reads and restores the snapshot of a model's training.

    Args:
        model: The model.
        device: Where its weights are.
        own: Generators that the data draw from.
    """

    def __init__(
        self, model: nn.Module, device: torch.device, own: Sequence[torch.Generator]
    ) -> None:
        self._model, self._device, self._own = model, device, own

    def now(self, before: Snapshot | None = None) -> Snapshot:
        """The present ones; what is the same as ``before`` is kept once."""
        randomness = GeneratorStates.now(self._device, self._own)
        training = tuple(module.training for module in self._model.modules())
        if before is None:
            return Snapshot(randomness, buffers_of(self._model), training)
        randomness = randomness.unless_same_as(before.randomness)
        training = before.training if training == before.training else training
        return Snapshot(randomness, buffers_of(self._model, before.buffers), training)

    def restore(self, snapshot: Snapshot) -> None:
        """Put them back."""
        snapshot.randomness.restore()
        put_back(snapshot.buffers)
        for module, mode in zip(self._model.modules(), snapshot.training, strict=True):
            module.training = mode
