"""The batches of a training, in order and once more from any step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import torch

from optuna_hypergrad.arguments import checked_count
from optuna_hypergrad.autodiff.data import Batch, Batches, check_batches, equal, generators_of
from optuna_hypergrad.autodiff.generators import GeneratorStates


class _Peeked(NamedTuple):
    """What a function returned before its step, and the random numbers before and after."""

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
        self.accumulate = checked_count("accumulate", accumulate)
        self.generators = list(generators_of(batches))
        # Whether the batches of any step can be taken at any time.
        self.is_indexed = callable(batches) or isinstance(batches, Sequence)
        self.is_list = type(batches) in (list, tuple)  # whose items no code of users makes
        data_set = getattr(batches, "dataset", None)
        self.is_iterator = isinstance(batches, Iterator) or isinstance(data_set, Iterator)
        self.keeps_passes = True  # False if no pass is iterated again; saves their random numbers
        self._position = 0
        self._passes: dict[int, GeneratorStates] = {}  # by the number of its first batch
        self._iterator: Iterator[Batch] = iter(())
        self._peeked: _Peeked | None = None

    @cached_property
    def is_once_only(self) -> bool:
        """Whether batches cannot be taken again: an iterator, or a function that fails to.

        Raises:
            ValueError: If a function returns another batch for the same step and random numbers,
                as ``lambda step: next(data)`` does.
        """
        if not callable(self._batches):
            return self.is_iterator
        first = self._peeked = self._call_first()
        first.before.restore()
        try:
            again = self._call_first()
        except Exception:  # whatever the data raise if they cannot be taken again
            return True
        finally:
            first.before.restore()
        if not equal(first.batch, again.batch):
            raise ValueError(
                "batches: the function returned another batch when it was called again for step 0, "
                "so that steps cannot be recomputed. Pass mode='forward', or return the same batch "
                "for the same step: draw from the global generators of torch, numpy or Python, or "
                "from one that the step seeds."
            )
        return False

    def take(self) -> tuple[Batch, ...]:
        """The batches of the next step."""
        return tuple(self._next() for _ in range(self.accumulate))

    def at(self, step: int) -> tuple[Batch, ...]:
        """The batches of any step, if ``is_indexed``."""
        self._position = step * self.accumulate
        return self.take()

    def peek(self) -> Batch:
        """The first batch, which ``take`` gives again; generators may have moved.

        A function is not called again for it.
        """
        if callable(self._batches):
            self._peeked = self._peeked or self._call_first()
            return self._peeked.batch
        batch = self._next()
        self._passes.clear()
        self.seek(0)
        return batch

    def seek(self, step: int) -> None:
        """Continue from any step; random number generators are left in an arbitrary state."""
        self._position = number = step * self.accumulate
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

    def _call_first(self) -> _Peeked:
        assert callable(self._batches)
        before = GeneratorStates.now(self._device, self.generators)
        batch = self._batches(0)
        return _Peeked(batch, before, GeneratorStates.now(self._device, self.generators))

    def _take_peeked(self) -> Batch:
        assert self._peeked is not None
        batch, before, after = self._peeked
        self._peeked = None
        now = GeneratorStates.now(self._device, self.generators, before)
        if now is before:  # nothing was drawn since: as if called now
            after.restore()
        return batch

    def _begin_pass(self, number: int) -> None:
        if not self.keeps_passes:
            self._passes.clear()
        if number in self._passes:  # a sampler may draw when its pass ends, which is not repeated
            self._passes[number].restore()
        self._passes.setdefault(number, GeneratorStates.now(self._device, self.generators))
        self._iterator = iter(self._batches)  # type: ignore[arg-type]


def _ended(number: int) -> ValueError:
    return ValueError(
        f"batches ended after {number}, before the last step; expected a sequence, an iterable "
        "that can be iterated again, or a function from the number to the batch."
    )
