"""What a training step depends on besides the weights: random numbers and the model's buffers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from optuna_hypergrad.autodiff.replay.randomness import Randomness


@dataclass(frozen=True, eq=False)
class Surroundings:
    """The states of the generators and copies of the buffers at one moment."""

    randomness: Randomness
    buffers: tuple[Tensor, ...]

    def bytes_beside(self, other: Surroundings) -> int:
        """How much memory this takes that ``other`` does not take already."""
        buffers = sum(
            a.numel() * a.element_size()
            for a, b in zip(self.buffers, other.buffers, strict=True)
            if a is not b
        )
        return buffers + (self.randomness is not other.randomness) * self.randomness.bytes


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
        buffers = [b.detach() for b in self._model.buffers()]
        if before is None:
            return Surroundings(randomness, tuple(b.clone() for b in buffers))
        pairs = zip(buffers, before.buffers, strict=True)
        return Surroundings(
            randomness.unless_same_as(before.randomness),
            tuple(old if torch.equal(b, old) else b.clone() for b, old in pairs),
        )

    def restore(self, surroundings: Surroundings) -> None:
        """Put them back."""
        surroundings.randomness.restore()
        with torch.no_grad():
            for buffer, saved in zip(self._model.buffers(), surroundings.buffers, strict=True):
                buffer.copy_(saved)
