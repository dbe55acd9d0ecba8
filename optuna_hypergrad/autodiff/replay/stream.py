"""The batches of a run, in order, and once more from any step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from optuna_hypergrad.arguments import checked_count
from optuna_hypergrad.autodiff.objective import Batch
from optuna_hypergrad.autodiff.replay.randomness import Randomness
from optuna_hypergrad.autodiff.validation import is_batch

Batches = Sequence[Batch] | Iterable[Batch] | Callable[[int], Batch]


class Stream:
    """Batches by number, repeated from the start where they end.

    A function or a sequence is asked for any batch at any time. Another iterable (a
    ``DataLoader``) is gone through from the start of its pass, with the random numbers that the
    pass began with, so that a shuffle comes out the same.

    Args:
        batches: A sequence, another iterable, or a function from the number to the batch.
        device: Where the model's weights are.
        accumulate: How many of them a training step takes.

    Raises:
        ValueError: If ``batches`` is a single batch, or ``accumulate`` no positive integer.
    """

    def __init__(self, batches: Batches, device: torch.device, accumulate: int = 1) -> None:
        if isinstance(batches, tuple | Tensor | Mapping) and is_batch(batches):
            raise ValueError("batches: got a single batch; expected a sequence of batches.")
        if not callable(batches) and not isinstance(batches, Iterable):
            kinds = "a sequence, another iterable, or a function of the step"
            raise ValueError(f"batches must be {kinds}, got {batches!r}.")
        self._batches, self._device = batches, device
        self.repeats = True  # whether a pass may be gone through again; else it is not remembered
        self._accumulate = checked_count("accumulate", accumulate)
        self.generators = list(_generators(batches))
        self._position = 0
        self._passes: dict[int, Randomness] = {}  # by the number of its first batch
        self._iterator: Iterator[Batch] = iter(())

    @property
    def by_number(self) -> bool:
        """Whether any batch can be had at any time."""
        return callable(self._batches) or isinstance(self._batches, Sequence)

    @property
    def once_only(self) -> bool:
        """Whether the batches can be gone through only once."""
        return isinstance(self._batches, Iterator)

    def kept_bytes(self, batches: Sequence[Batch]) -> int:
        """Memory to keep some batches; 0 where they can be had again by their number."""
        if self.by_number:
            return 0
        return sum(map(_bytes, batches))

    def take(self) -> tuple[Batch, ...]:
        """The batches of the next step."""
        return tuple(self._next() for _ in range(self._accumulate))

    def seek(self, step: int) -> None:
        """Go to any step; random numbers are left in an arbitrary state."""
        self._position = number = step * self._accumulate
        if self.by_number:
            return
        first = max((start for start in self._passes if start <= number), default=number)
        self._iterator = iter(())
        if first < number:  # else the pass begins when its first batch is taken
            self._passes[first].restore()
            self._iterator = iter(self._batches)  # type: ignore[arg-type]
            for _ in range(number - first):
                next(self._iterator)

    def _next(self) -> Batch:
        number = self._position
        self._position += 1
        if callable(self._batches):
            return self._batches(number)
        if isinstance(self._batches, Sequence):
            if not self._batches:
                raise _ended(number)
            return self._batches[number % len(self._batches)]
        for batch in self._iterator:
            return batch
        self._begin_pass(number)
        for batch in self._iterator:
            return batch
        raise _ended(number)

    def rewind(self) -> None:
        """Go to the start, as if nothing had been taken; generators are left as they are."""
        self._passes.clear()
        self.seek(0)

    def _begin_pass(self, number: int) -> None:
        if not self.repeats:
            self._passes.clear()
        if number in self._passes:  # a sampler may draw as the pass before ends: do without that
            self._passes[number].restore()
        self._passes.setdefault(number, Randomness.now(self._device, self.generators))
        self._iterator = iter(self._batches)  # type: ignore[arg-type]


def _bytes(batch: Batch) -> int:
    """Memory of the tensors and arrays in a batch."""
    if isinstance(batch, Tensor | np.ndarray):
        return batch.nbytes
    if isinstance(batch, Mapping):
        return sum(map(_bytes, batch.values()))
    if isinstance(batch, tuple | list):
        return sum(map(_bytes, batch))
    return sum(map(_bytes, vars(batch).values())) if hasattr(batch, "__dict__") else 0


def _ended(number: int) -> ValueError:
    return ValueError(
        f"batches ended after {number}, before the last step; expected a sequence, an iterable "
        "that can be iterated again, or a function from the number to the batch."
    )


def _generators(batches: Batches) -> Iterator[torch.Generator]:
    """The generators of a ``DataLoader`` and of its samplers."""
    seen = []
    for name in ("", "sampler", "batch_sampler"):
        owner = getattr(batches, name, None) if name else batches
        for part in (owner, getattr(owner, "sampler", None)):
            generator = getattr(part, "generator", None)
            if isinstance(generator, torch.Generator) and generator not in seen:
                seen.append(generator)
                yield generator
