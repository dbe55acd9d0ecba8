"""The training batches of a run, in order, and again from any step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from optuna_hypergrad.arguments import checked_count
from optuna_hypergrad.autodiff.data import check_batches, generators_of, once_only
from optuna_hypergrad.autodiff.loss import Batch
from optuna_hypergrad.autodiff.snapshot import GeneratorStates

Batches = Sequence[Batch] | Iterable[Batch] | Callable[[int], Batch]


class _Peeked(NamedTuple):
    """What a function returned for number 0, and the random numbers before and after."""

    batch: Batch
    before: GeneratorStates
    after: GeneratorStates


class TrainingBatches:
    """Batches by number, repeated from the start when they end.

    A function or a sequence gives any batch at any time. Another iterable (a ``DataLoader``) is
    iterated from the start of its pass, with the random numbers of that time, so that a shuffle
    comes out the same.

    Args:
        batches: A sequence, another iterable, or a function from the number to the batch.
        device: The device of the model's weights.
        accumulate: Number of batches of a training step.

    Raises:
        ValueError: If ``batches`` is a single batch, or ``accumulate`` is not a positive integer.
    """

    def __init__(self, batches: Batches, device: torch.device, accumulate: int = 1) -> None:
        check_batches(batches)
        self._batches, self._device = batches, device
        self._accumulate = checked_count("accumulate", accumulate)
        self.generators = list(generators_of(batches))
        self.is_indexed = callable(batches) or isinstance(batches, Sequence)
        self.is_once_only = once_only(batches)
        self.keeps_passes = True  # False if no pass is iterated again; saves their random numbers
        self._position = 0
        self._passes: dict[int, GeneratorStates] = {}  # by the number of its first batch
        self._iterator: Iterator[Batch] = iter(())
        self._peeked: _Peeked | None = None

    def bytes_to_store(self, batches: Sequence[Batch]) -> int:
        """Memory to store some batches; 0 if they can be taken again by their number."""
        return 0 if self.is_indexed else sum(map(_nbytes, batches))

    def take(self) -> tuple[Batch, ...]:
        """The batches of the next step."""
        return tuple(self._next() for _ in range(self._accumulate))

    def peek(self) -> Batch:
        """The first batch, which ``take`` gives again; generators may have moved.

        A function is not called again for it, so that it may be one that counts its own calls, as
        ``lambda step: next(data)``.
        """
        if callable(self._batches):
            before = GeneratorStates.now(self._device, self.generators)
            batch = self._batches(0)
            after = GeneratorStates.now(self._device, self.generators)
            self._peeked = _Peeked(batch, before, after)
        else:
            batch = self._next()
            self._passes.clear()
            self.seek(0)
        return batch

    def seek(self, step: int) -> None:
        """Continue from any step; random number generators are left in an arbitrary state."""
        self._position = number = step * self._accumulate
        if self.is_indexed:
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
            return self._batches(number) if self._peeked is None else self._take_peeked()
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

    def _take_peeked(self) -> Batch:
        assert self._peeked is not None
        batch, before, after = self._peeked
        self._peeked = None
        now = GeneratorStates.now(self._device, self.generators)
        if now.unless_same_as(before) is before:  # nothing was drawn since: as if called now
            after.restore()
        return batch

    def _begin_pass(self, number: int) -> None:
        if not self.keeps_passes:
            self._passes.clear()
        if number in self._passes:  # a sampler may draw when its pass ends, which is not repeated
            self._passes[number].restore()
        self._passes.setdefault(number, GeneratorStates.now(self._device, self.generators))
        self._iterator = iter(self._batches)  # type: ignore[arg-type]


def _nbytes(batch: Batch) -> int:
    """Memory of the tensors and arrays in a batch."""
    if isinstance(batch, Tensor | np.ndarray):
        return batch.nbytes
    if isinstance(batch, Mapping):
        return sum(map(_nbytes, batch.values()))
    if isinstance(batch, tuple | list):
        return sum(map(_nbytes, batch))
    return sum(map(_nbytes, vars(batch).values())) if hasattr(batch, "__dict__") else 0


def _ended(number: int) -> ValueError:
    return ValueError(
        f"batches ended after {number}, before the last step; expected a sequence, an iterable "
        "that can be iterated again, or a function from the number to the batch."
    )
