"""The random numbers of each of several runs: those that it would draw alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from optuna_hypergrad.autodiff.generators import GeneratorStates

_CPU = torch.device("cpu")
_RESEED = 2**31  # seeds of a fork are below


class RunGenerators:
    """The states that the process's generators of random numbers have in one run.

    They begin as those of the process are now.
    """

    def __init__(self) -> None:
        self._of = {_CPU: torch.Generator()}
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            self.include(torch.device("cuda", torch.cuda.current_device()))
        self._read()

    def include(self, device: torch.device) -> None:
        """Take in the generator of another device, within ``active``."""
        if device not in self._of:
            self._of[device] = torch.Generator(device)

    def of(self, device: torch.device) -> torch.Generator:
        """The run's generator of a device."""
        return self._of[device]

    @contextmanager
    def active(self) -> Iterator[None]:
        """Within it, these are the states of the process, whose own are lost."""
        self._write()
        try:
            yield
        finally:
            self._read()

    def get_state(self) -> Tensor:
        """All states as bytes, for ``set_state``; like ``torch.Generator``."""
        return torch.cat([*(one.get_state() for one in self._of.values()), self._bytes])

    def set_state(self, state: Tensor) -> None:
        """Put states back."""
        for generator in self._of.values():
            size = len(generator.get_state())
            generator.set_state(state[:size].clone())
            state = state[size:]
        self._bytes = state.clone()

    def _read(self) -> None:
        now = GeneratorStates.now(_CPU)
        self._of[_CPU].set_state(now.torch_states[0])
        for device, generator in self._others():
            generator.set_state(torch.get_device_module(device).get_rng_state(device))
        _, key, *rest = now.numpy_state
        version, numbers, following = now.python_state
        plain = np.array([*rest, version, np.nan if following is None else following])
        joined = plain.tobytes() + key.tobytes() + numbers
        self._bytes = torch.frombuffer(bytearray(joined), dtype=torch.uint8)

    def _write(self) -> None:
        plain: Any = self._bytes[:40].numpy().view(np.float64).tolist()
        key = self._bytes[40 : 40 + 4 * 624].numpy().view(np.uint32)
        numbers = self._bytes[40 + 4 * 624 :].numpy().tobytes()
        position, has_gauss, gauss, version, following = plain
        numpy_state = ("MT19937", key, int(position), int(has_gauss), gauss)
        following = None if np.isnan(following) else following
        states = (self._of[_CPU].get_state(),)
        python_state = (int(version), numbers, following)
        GeneratorStates(states, numpy_state, python_state, _CPU).restore()
        for device, generator in self._others():
            torch.get_device_module(device).set_rng_state(generator.get_state(), device)

    def _others(self) -> list[tuple[torch.device, torch.Generator]]:
        return [pair for pair in self._of.items() if pair[0] != _CPU]


def forked() -> RunGenerators:
    """Generators that begin with seeds drawn from those of the process."""
    seeds = int(torch.randint(_RESEED, ())), np.random.randint(_RESEED), random.randrange(_RESEED)
    process = GeneratorStates.now(_CPU)
    torch.default_generator.manual_seed(seeds[0])
    np.random.seed(seeds[1])
    random.seed(seeds[2])
    found = RunGenerators()
    for _, generator in found._others():
        generator.manual_seed(seeds[0])
    process.restore()
    return found
