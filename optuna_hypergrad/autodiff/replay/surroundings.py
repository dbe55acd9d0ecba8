"""What a training step depends on besides weights and batch: random numbers, buffers, modes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from optuna_hypergrad.autodiff.buffers import Buffer, buffers_of, put_back
from optuna_hypergrad.autodiff.replay.randomness import Randomness


@dataclass(frozen=True, eq=False)
class Surroundings:
    """The states of the generators, copies of the buffers and the modules' modes."""

    randomness: Randomness
    buffers: tuple[Buffer, ...]
    training: tuple[bool, ...]

    def bytes_beside(self, other: Surroundings) -> int:
        """How much memory this takes that ``other`` does not take already."""
        known = {id(buffer) for buffer in other.buffers}
        new = (buffer.bytes for buffer in self.buffers if id(buffer) not in known)
        mine = 0 if self.randomness is other.randomness else self.randomness.bytes
        return mine + sum(new)


class Surrounding:
    """Reads and restores the surroundings of a model's training.

    Args:
        model: The model.
        device: Where its weights are.
        own: Generators that the data draw from.
    """

    def __init__(
        self, model: nn.Module, device: torch.device, own: Sequence[torch.Generator]
    ) -> None:
        self._model, self._device, self._own = model, device, own

    def now(self, before: Surroundings | None = None) -> Surroundings:
        """The present ones; what is the same as ``before`` is kept once."""
        randomness = Randomness.now(self._device, self._own)
        training = tuple(module.training for module in self._model.modules())
        if before is None:
            return Surroundings(randomness, buffers_of(self._model), training)
        randomness = randomness.unless_same_as(before.randomness)
        training = before.training if training == before.training else training
        return Surroundings(randomness, buffers_of(self._model, before.buffers), training)

    def restore(self, surroundings: Surroundings) -> None:
        """Put them back."""
        surroundings.randomness.restore()
        put_back(surroundings.buffers)
        for module, mode in zip(self._model.modules(), surroundings.training, strict=True):
            module.training = mode
