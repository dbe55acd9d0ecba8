"""The states of all generators of random numbers that a training step may draw from."""

from __future__ import annotations

import ctypes
import operator
import random
import sys
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

_MT19937_BYTES = 2500  # 624 numbers and a position


@dataclass(frozen=True, eq=False)
class GeneratorStates:
    """States of the generators of torch (CPU and the model's device), numpy and Python.

    Args:
        torch_states: States of torch's generator of the CPU, of that of the model's device where
            it is another, and of the generators in ``own``.
        numpy_state: State of numpy's global generator.
        python_state: State of the generator of the module ``random``: its version, its numbers
            as bytes, and the rest.
        device: The model's device.
        own: Generators that the data draw from (those of a ``DataLoader`` and its sampler).
        numpy_memory: What ``_numpy_memory`` has to be for numpy's state to be this one; None where
            only the state tells.
    """

    torch_states: tuple[Tensor, ...]
    numpy_state: tuple[Any, ...]
    python_state: tuple[Any, ...]
    device: torch.device
    own: Sequence[torch.Generator] = ()
    numpy_memory: bytes | None = None

    @classmethod
    def now(
        cls,
        device: torch.device,
        own: Sequence[torch.Generator] = (),
        before: GeneratorStates | None = None,
    ) -> GeneratorStates:
        """The present states.

        Args:
            device: The model's device.
            own: Generators that the data draw from.
            before: Earlier states. Those that are still the same are shared, so that they take
                memory once; ``before`` itself is returned if all are.
        """
        states = [torch.get_rng_state()]
        if device.type != "cpu":
            states.append(torch.get_device_module(device).get_rng_state(device))
        states += [generator.get_state() for generator in own]
        memory = _numpy_memory()
        if before is not None and memory is not None and memory == before.numpy_memory:
            numpy_state = before.numpy_state
        else:
            numpy_state, memory = _numpy_state(memory)
        python_state = _python_state(None if before is None else before.python_state)
        now = cls(tuple(states), numpy_state, python_state, device, own, memory)
        return now if before is None else now._sharing(before)

    def restore(self) -> None:
        """Put these states back, where they have changed."""
        now = GeneratorStates.now(self.device, self.own, self)
        setters: list[Callable[[Tensor], object]] = [torch.set_rng_state]
        if self.device.type != "cpu":
            module, device = torch.get_device_module(self.device), self.device
            setters.append(lambda state: module.set_rng_state(state, device))
        setters += [generator.set_state for generator in self.own]
        for put, state, present in zip(setters, self.torch_states, now.torch_states, strict=True):
            if state is not present:
                put(state)
        if self.numpy_state is not now.numpy_state:
            np.random.set_state(self.numpy_state)
        if self.python_state is not now.python_state:
            version, numbers, rest = self.python_state
            random.setstate((version, tuple(array("I", numbers)), rest))

    def bytes_beside(self, other: GeneratorStates) -> int:
        """Memory of the states, without those that are shared with ``other``."""
        own, others = self._sizes(), other._sizes()
        return sum(size for state, size in own.items() if state not in others)

    def _sizes(self) -> dict[int, int]:
        """Bytes by the id of what takes memory."""
        key, numbers = self.numpy_state[1], self.python_state[1]
        sizes = {id(state): state.nbytes for state in self.torch_states}
        return {**sizes, id(key): key.nbytes, id(numbers): len(numbers)}

    def _sharing(self, before: GeneratorStates) -> GeneratorStates:
        """The same states, those of ``before`` where they are equal."""
        pairs = zip(self.torch_states, before.torch_states, strict=True)
        torch_states = tuple(old if _same(new, old) else new for new, old in pairs)
        numpy_state = before.numpy_state
        if not _same_numpy(self.numpy_state, numpy_state):
            numpy_state = self.numpy_state
        new = (*torch_states, numpy_state, self.python_state)  # the last is shared already
        old = (*before.torch_states, before.numpy_state, before.python_state)
        if all(map(operator.is_, new, old)):
            return before
        return replace(self, torch_states=torch_states, numpy_state=numpy_state)


def _same(first: Tensor, second: Tensor) -> bool:
    return first.numpy().tobytes() == second.numpy().tobytes()  # in a third of torch.equal's time


def _same_numpy(first: tuple[Any, ...], second: tuple[Any, ...]) -> bool:
    if first is second:
        return True
    return first[2:] == second[2:] and np.array_equal(first[1], second[1])


def _python_state(before: tuple[Any, ...] | None) -> tuple[Any, ...]:
    """The state of the generator of ``random``; ``before`` if it is still the same.

    A draw changes the last number, the position, and when it comes round, all the others.
    """
    version, numbers, rest = random.getstate()
    end = array("I", numbers[-5:]).tobytes()
    if before is not None and before[1].endswith(end) and before[::2] == (version, rest):
        return before
    return version, array("I", numbers).tobytes(), rest  # a tenth of the memory


def _numpy_memory() -> bytes | None:
    """The numbers and the position of numpy's global generator, as they lie in memory.

    To read them takes a microsecond, while ``get_state`` takes fifty.
    """
    if not hasattr(np.random, "get_bit_generator"):  # before numpy 1.24
        return None
    bits = np.random.get_bit_generator()
    if type(bits) is not np.random.MT19937:
        return None
    return ctypes.string_at(bits.ctypes.state_address, _MT19937_BYTES)


def _numpy_state(memory: bytes | None) -> tuple[tuple[Any, ...], bytes | None]:
    """The state, and ``memory`` where it tells by itself whether the state is the same later.

    It does not while the generator holds a second normal number back, which is not in there.
    """
    state = np.random.get_state(legacy=True)
    assert isinstance(state, tuple)
    _, key, position, has_gauss, _ = state
    expected = key.tobytes() + int(position).to_bytes(4, sys.byteorder)
    return state, memory if memory == expected and not has_gauss else None
