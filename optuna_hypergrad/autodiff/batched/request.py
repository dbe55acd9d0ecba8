"""What a call of ``hypergradient`` asks for, and which of them can be computed together."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass

from torch import Tensor

from optuna_hypergrad.autodiff.batches import TrainingBatches
from optuna_hypergrad.autodiff.data import Batch
from optuna_hypergrad.autodiff.growth import Estimate
from optuna_hypergrad.autodiff.loss import LossFn, Statistics
from optuna_hypergrad.autodiff.recompute.memory import CheckpointStore
from optuna_hypergrad.autodiff.run import Run


@dataclass(frozen=True)
class Request:
    """A training run in reverse mode, or without derivatives; see ``hypergradient``."""

    run: Run
    data: TrainingBatches
    validation: Batch | Iterable[Batch]
    validation_loss_fn: LossFn | None
    statistics: Statistics
    average: bool
    clip_products: float | None
    estimate: Estimate
    store: CheckpointStore
    memory: int | None
    on_step: Callable[[int, float], None] | None
    progress: bool

    @property
    def shape(self) -> Hashable:
        """What has to be the same in runs that are computed together."""
        run, hypers = self.run, self.run.hypers
        tensors = [*run.weights.parameters, *run.model.buffers(), *run.initial_state]
        given = [h for h in hypers.at(0).loss.values() if isinstance(h, Tensor)]
        return (
            *(run.steps, self.data.accumulate, self.store.place, self.memory, self.clip_products),
            *(type(run.update), tuple(run.weights.names), self.data.is_indexed),
            *(tuple(hypers.all), tuple(hypers.learned), tuple(run.learned), hypers.is_learning),
            *((t.shape, t.dtype, t.device, t.stride()) for t in [*tensors, *given]),
        )
