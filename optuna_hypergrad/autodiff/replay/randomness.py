"""The state of every random number generator that a training step may draw from."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Randomness:
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
    def now(cls, device: torch.device, own: Sequence[torch.Generator] = ()) -> Randomness:
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

    def unless_same_as(self, other: Randomness | None) -> Randomness:
        """``other`` where it holds the same states, so that equal ones are kept once."""
        return other if other is not None and self._equals(other) else self

    @property
    def bytes(self) -> int:
        """About how much memory the states take."""
        arrays = (self.numpy_state[1], self.python_state[1])
        return sum(state.nbytes for state in (*self.torch_states, *arrays))

    def _equals(self, other: Randomness) -> bool:
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
