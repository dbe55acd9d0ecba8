"""The batches of R runs, a step at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from torch import Generator

from optuna_hypergrad.autodiff.batched.generators import RunGenerators
from optuna_hypergrad.autodiff.batched.runs import RunsBatches, StackedRuns
from optuna_hypergrad.autodiff.batches import TrainingBatches
from optuna_hypergrad.autodiff.data import Batch

_Found = TypeVar("_Found")


class StackedBatches:
    """The interface of ``TrainingBatches``, with a tuple of batches for each run.

    Args:
        data: The batches of each run.
        runs: The runs.
    """

    def __init__(self, data: Sequence[TrainingBatches], runs: StackedRuns) -> None:
        self._data, self._runs = list(data), runs
        self.is_indexed = all(one.is_indexed for one in data)
        own = (generator for one in data for generator in one.generators)
        self.generators: list[Generator | RunGenerators] = [
            *runs.generators,
            *{id(generator): generator for generator in own}.values(),
        ]

    def take(self) -> RunsBatches:
        """The batches of the next step, of each run."""
        return self._each(lambda one: one.take())

    def at(self, step: int) -> RunsBatches:
        """Those of any step, if ``is_indexed``."""
        return self._each(lambda one: one.at(step))

    def seek(self, step: int) -> None:
        """Continue from any step."""
        for i, one in enumerate(self._data):
            self._runs.call(i, lambda one=one: one.seek(step))  # type: ignore[misc]

    def _each(self, function: Callable[[TrainingBatches], tuple[Batch, ...]]) -> RunsBatches:
        found = [
            function(one) if one.is_list else self._runs.call(i, lambda one=one: function(one))  # type: ignore[misc]
            for i, one in enumerate(self._data)
        ]
        stand_in = next(one for one in found if one is not None)  # for runs that have failed
        return [stand_in if one is None else one for one in found]
