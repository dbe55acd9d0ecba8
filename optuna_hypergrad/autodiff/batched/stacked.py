"""What several runs have in common: weights, traces, inputs of a step."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from optuna_hypergrad.autodiff.batched.calls import Known
from optuna_hypergrad.autodiff.run import Run


class NoRunLeft(RuntimeError):
    """Every run has failed."""


class KnownTraces:
    """Traces that outlast the runs which left them, of runs of one shape."""

    def __init__(self) -> None:
        self.gradient: Known = {}
        self.update: Known = {}
        self.step_back: Known = {}


class StackedWeights:
    """The weights of all runs, shape (R, D); the models get them when they are needed."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self._each = [run.weights for run in runs]
        self.device = self._each[0].device
        self.current = torch.stack([weights.read() for weights in self._each])

    def read(self) -> Tensor:
        """The weights, shape (R, D)."""
        return self.current

    def write(self, weights: Tensor) -> None:
        """Set the weights, shape (R, D)."""
        self.current = weights

    def by_parameter(self) -> list[Tensor]:
        """Views of the weights, of shapes (R, *parameter)."""
        return self._each[0].split(self.current)


class Inputs(NamedTuple):
    """Tensors of all runs.

    Args:
        kind: Their shapes, and all else that is the same at each call with the same operations;
            None if runs differ in more than numbers.
        tensors: Stacked, or shared by the runs.
        is_stacked: Which of them are stacked.
    """

    kind: Hashable | None
    tensors: list[Tensor]
    is_stacked: list[bool]
