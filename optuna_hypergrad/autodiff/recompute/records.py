"""What a recomputation takes, and what it stores of the steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

from optuna_hypergrad.autodiff.data import Batch
from optuna_hypergrad.autodiff.loss import LossGrad
from optuna_hypergrad.autodiff.recompute.memory import Stored
from optuna_hypergrad.autodiff.snapshot import Snapshot
from optuna_hypergrad.autodiff.step import TrainState
from optuna_hypergrad.autodiff.weights import HasGrad


class Steps(Protocol):
    """A run that takes steps: ``Run``, or several as one."""

    steps: int
    weights: Any
    hypers: Any

    @property
    def model(self) -> nn.Module:
        """The model, whose buffers a step may change."""
        ...

    def begin(self) -> TrainState:
        """Set the initial weights."""
        ...

    def gradient(self, batches: Any, hypers: Any) -> LossGrad:
        """The training gradient."""
        ...

    def step(self, step: int, point: TrainState, grad: LossGrad, hypers: Any) -> TrainState:
        """Take a step."""
        ...

    def updated(
        self, point: TrainState, gradient: Tensor, has_grad: HasGrad, hypers: Any
    ) -> TrainState:
        """The point after a step."""
        ...


class StepBatches(Protocol):
    """Batches of steps: ``TrainingBatches``, or those of several runs."""

    is_indexed: bool
    generators: Any

    def take(self) -> Any:
        """The batches of the next step."""
        ...

    def at(self, step: int) -> Any:
        """Those of any step."""
        ...

    def seek(self, step: int) -> None:
        """Continue from any step."""
        ...


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run before one step."""

    step: int
    stored: Stored
    snapshot: Snapshot

    @property
    def point(self) -> TrainState:
        """The weights and the state of the update."""
        weights, *state = self.stored.read()
        return TrainState(weights, tuple(state))


@dataclass(frozen=True)
class StepRecord:
    """The gradient of one step, the snapshot before it, and the point if points are kept."""

    stored: Stored
    has_grad: HasGrad
    snapshot: Snapshot
    batches: tuple[Batch, ...] | None  # None if they can be taken again by their number

    @property
    def gradient(self) -> Tensor:
        """The training gradient, shape (D,)."""
        return self.stored.read()[0]

    @property
    def point(self) -> TrainState:
        """The weights and the state of the update before the step, where they are kept."""
        _, weights, *state = self.stored.read()
        return TrainState(weights, tuple(state))


class Visit(NamedTuple):
    """A step on the way back; the model and the generators are as they were before it."""

    step: int
    point: TrainState
    gradient: Tensor
    has_grad: HasGrad
    batches: tuple[Batch, ...]
    snapshot: Snapshot


class Placement(NamedTuple):
    """What is stored of the steps from a checkpoint on."""

    checkpoints: list[int]  # before these steps
    recorded: int  # the first step whose gradient is recorded; all later ones are
