"""The batches of a run, in order, and once more from any step.

What runs beside a training, and must leave it as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from optuna_hypergrad.arguments import checked_count
from optuna_hypergrad.autodiff.data import check_batches, generators_of, once_only
from optuna_hypergrad.autodiff.loss import Batch
from optuna_hypergrad.autodiff.run import Run
from optuna_hypergrad.autodiff.snapshot import GeneratorStates, Snapshotter
from optuna_hypergrad.autodiff.step import TrainState

Batches = Sequence[Batch] | Iterable[Batch] | Callable[[int], Batch]


class _Asked(NamedTuple):
    """What a function of the step gave, and the random numbers before and after."""

    batch: Batch
    before: GeneratorStates
    after: GeneratorStates


class Stream:
    """Batches by number, repeated from the start where they end.

    A function or a sequence is asked for any batch at any time. Another iterable (a
    ``DataLoader``) is gone through from the start of its pass, with the random numbers that the
    pass began with, so that a shuffle comes out the same. A function is asked once for what is
    looked at before the run: it may be one that goes on by itself, as ``lambda step: next(data)``.

    Args:
        batches: A sequence, another iterable, or a function from the number to the batch.
        device: Where the model's weights are.
        accumulate: How many of them a training step takes.

    Raises:
        ValueError: If ``batches`` is a single batch, or ``accumulate`` no positive integer.
    """

    def __init__(self, batches: Batches, device: torch.device, accumulate: int = 1) -> None:
        check_batches(batches)
        self._batches, self._device = batches, device
        self.repeats = True  # whether a pass may be gone through again; else it is not remembered
        self._accumulate = checked_count("accumulate", accumulate)
        self.generators = list(generators_of(batches))
        self._position = 0
        self._passes: dict[int, GeneratorStates] = {}  # by the number of its first batch
        self._iterator: Iterator[Batch] = iter(())
        self.looking = False  # ahead, before the run
        self._ahead: dict[int, _Asked] = {}

    @property
    def by_number(self) -> bool:
        """Whether any batch can be had at any time."""
        return callable(self._batches) or isinstance(self._batches, Sequence)

    @property
    def once_only(self) -> bool:
        """Whether the batches can be gone through only once."""
        return once_only(self._batches)

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
            return self._asked(self._batches, number)
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

    def _asked(self, function: Callable[[int], Batch], number: int) -> Batch:
        """What a function gives; it is not asked again for what was looked at before the run."""
        known = self._ahead.get(number) if self.looking else self._ahead.pop(number, None)
        if known is None and not self.looking:
            return function(number)
        now = GeneratorStates.now(self._device, self.generators)
        if known is None:
            batch = function(number)
            known = _Asked(batch, now, GeneratorStates.now(self._device, self.generators))
            self._ahead[number] = known
        elif now.unless_same_as(known.before) is known.before:
            known.after.restore()
        return known.batch

    def rewind(self) -> None:
        """Go to the start, as if nothing had been taken; generators are left as they are."""
        self._passes.clear()
        self.seek(0)

    def _begin_pass(self, number: int) -> None:
        if not self.repeats:
            self._passes.clear()
        if number in self._passes:  # a sampler may draw as the pass before ends: do without that
            self._passes[number].restore()
        self._passes.setdefault(number, GeneratorStates.now(self._device, self.generators))
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


@contextmanager
def looking_ahead(run: Run, stream: Stream) -> Iterator[Snapshotter]:
    """Within it, steps may be taken; afterwards the run and its batches are at the start again."""
    snapshotter = Snapshotter(run.objective.model, run.weights.device, stream.generators)
    before, given = snapshotter.now(), run.weights.read()
    stream.looking = True
    try:
        yield snapshotter
    finally:
        stream.looking = False
        run.weights.write(given)
        stream.rewind()
        snapshotter.restore(before)


@contextmanager
def undisturbed(
    run: Run, step: int, point: TrainState, generators: Sequence[torch.Generator]
) -> Iterator[None]:
    """Within it, ``on_step`` may draw random numbers; it must not change the model.

    Raises:
        ValueError: If it changed weights, frozen parameters or buffers; the message names one.
    """
    before, versions = GeneratorStates.now(run.weights.device, generators), run.state_versions()
    yield
    before.restore()  # so that the training does not depend on what it drew
    run.check_weights(step, point, "on_step")
    run.weights.check_trainable()
    changed = [name for name, version in run.state_versions().items() if versions[name] != version]
    if changed:
        raise ValueError(
            f"on_step: it changed {changed[0]!r} of the model, which later steps may depend on and "
            "hypergradients do not see. Change it in loss_fn, or name it in constant_buffers."
        )
