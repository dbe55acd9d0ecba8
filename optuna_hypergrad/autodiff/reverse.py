"""Reverse mode: the adjoint of the weights, pulled back over a run from its last step.

It takes one Hessian product a step, however many hyperparameters there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from optuna_hypergrad.autodiff.data import Batch
from optuna_hypergrad.autodiff.growth import AdjointMeter, Estimate
from optuna_hypergrad.autodiff.hparams import Key
from optuna_hypergrad.autodiff.loss import LossFn, Statistics, Validated
from optuna_hypergrad.autodiff.progress import PRODUCT, Progress
from optuna_hypergrad.autodiff.pullback import PullBack, Pulled, numbers_of
from optuna_hypergrad.autodiff.recompute.recomputation import Recomputation
from optuna_hypergrad.autodiff.recompute.records import Visit
from optuna_hypergrad.autodiff.result import Hypergradient
from optuna_hypergrad.autodiff.run import Run
from optuna_hypergrad.autodiff.second_order.clipping import ProductClipping
from optuna_hypergrad.autodiff.step import TrainState


class Derivatives(NamedTuple):
    """Derivatives of the validation loss through the training.

    Args:
        per_step: By the value at each step of each number, shape (steps,).
        by_tensor: By tensor, the sum over all steps.
        initial: By the initial weights, shape (D,).
    """

    per_step: dict[Key, NDArray[np.float64]]
    by_tensor: dict[str, Tensor]
    initial: Tensor


class ReverseMode:
    """A training run, and then its hypergradient.

    Args:
        run: The run.
        recomputation: Its steps.
        average: Mean over a parameter's steps instead of the sum.
        clip_products: Bound on the entries of Hessian products, or None.
        estimate: ``"damped"`` or ``"exact"``.
        compiled: Whether to compile the steps back.
        bar: The progress bar, if there is one.
    """

    def __init__(
        self,
        run: Run,
        recomputation: Recomputation,
        *,
        average: bool,
        clip_products: float | None,
        estimate: Estimate,
        compiled: bool,
        bar: Progress | None,
    ) -> None:
        self._run, self._recomputation = run, recomputation
        self._average, self._bar = average, bar
        self._clipping = ProductClipping(clip_products)
        self._meter = AdjointMeter(estimate, run.steps)
        self._pull_back = PullBack(run, recomputation, self._clipping, compiled)

    @property
    def point(self) -> TrainState:
        """The current weights and state of the update."""
        return self._recomputation.point

    def train(self) -> Iterator[Tensor]:
        """Take all steps; yields the training loss of each."""
        for step, loss in enumerate(self._recomputation.train()):
            if self._bar is not None and step < 2:  # by the second step, the plan is made
                n_recomputed = self._recomputation.n_to_recompute
                self._bar.expect(self._run.steps * (2.0 + PRODUCT) + n_recomputed)
            if self._bar is not None:
                self._bar.step(1.0, loss)
            yield loss

    def hypergradient(
        self,
        validation: Batch | Iterable[Batch],
        *,
        loss_fn: LossFn | None,
        statistics: Statistics,
    ) -> Hypergradient:
        """Derivative of the validation loss of the trained weights with respect to λ."""
        recomputation, run = self._recomputation, self._run
        point = recomputation.point
        validated, adjoint = run.validate(point, validation, loss_fn, statistics)
        derivatives = self._backward(adjoint) if adjoint.is_finite() else None
        return replace(
            summed(run, validated, derivatives, self._average),
            train_losses=recomputation.losses.tolist(),
            growth=None if derivatives is None else self._meter.growth(run.hypers),
            clipped=self._clipping.fraction,
            recomputed=recomputation.n_recomputed,
            kept_bytes=recomputation.peak_bytes,
            state=point.state,
        )

    def finish(self) -> None:
        """Give the model the weights that were validated, for an update that averages them."""
        self._run.finish(self._recomputation.point)

    def _backward(self, adjoint: TrainState) -> Derivatives:
        run = self._run
        # Allocated once: new numbers at each step would fragment the heap.
        by_value = adjoint.weights.new_zeros((run.steps, len(run.hypers.learned)))
        by_tensor = {k: by_value.new_zeros(run.learned[k]) for k in run.hypers.tensors}

        def damped(step: int, pulled: Pulled) -> Tensor:
            kept, curved = pulled.kept.weights, pulled.curved
            measured = numbers_of(pulled.measured.tolist(), kept, curved)
            alpha = damping(step, measured, self._meter, self._clipping, run)
            return kept.add(curved, alpha=alpha)

        adjoint = go_back(
            self._recomputation,
            adjoint,
            self._pull_back,
            damped,
            by_value,
            by_tensor,
            self._bar,
        )
        rows = by_value.double().T.cpu().numpy().copy()
        per_step = dict(zip(run.hypers.learned, rows, strict=True))
        return Derivatives(per_step, by_tensor, adjoint.weights)


def go_back(
    recomputation: Recomputation,
    adjoint: TrainState,
    pull: Callable[[Visit, TrainState], Pulled],
    damped: Callable[[int, Pulled], Tensor],
    by_value: Tensor,
    by_tensor: Mapping[str, Tensor],
    bar: Progress | None,
) -> TrainState:
    """Pull the adjoint back over all steps; returns that of the initial weights.

    Args:
        recomputation: The steps.
        adjoint: ∂(validation loss)/∂(w, s) at the end.
        pull: The derivatives by the inputs of a step.
        damped: The adjoint's weights before a step, from these.
        by_value: Gets the derivatives by the values at each step, its first dimension.
        by_tensor: Gets the sums of those by tensors.
        bar: The progress bar, if there is one.
    """
    on_recomputed = None
    if bar is not None:
        bar.phase("going back", len(by_value))
        on_recomputed = partial(bar.spend, 1.0)
    with closing(recomputation.backward(on_recomputed)) as visits:
        for visit in visits:
            pulled, step = pull(visit, adjoint), visit.step
            del visit  # its tensors, before the next ones are computed
            by_value[step] = pulled.by_value
            for name, found in pulled.by_tensor.items():
                by_tensor[name] += found
            adjoint = TrainState(damped(step, pulled), pulled.kept.state)
            if bar is not None:
                bar.step(1.0 + PRODUCT)
    return adjoint


def damping(
    step: int, measured: Sequence[float], meter: AdjointMeter, clipping: ProductClipping, run: Run
) -> float:
    """α of a run's step, from what ``Pulled`` measured; counts the clipped entries."""
    _, n_clipped, square, inner, q = measured
    clipping.count(n_clipped, len(run.weights))
    return meter.weight(step, square, inner, q)


def summed(
    run: Run, validated: Validated, derivatives: Derivatives | None, average: bool
) -> Hypergradient:
    """The hypergradient by trial parameter; what else was measured is still missing.

    Args:
        run: The run.
        validated: Its validation, with the direct derivatives by hyperparameters of the loss.
        derivatives: Those through the training; None for a run that has diverged.
        average: Mean over a parameter's steps instead of the sum.
    """
    hypers = run.hypers
    if derivatives is None:
        per_step = {key: np.full(run.steps, np.nan) for key in hypers.learned}
        by_tensor = {name: validated.direct[name] * np.nan for name in hypers.tensors}
    else:
        per_step, by_tensor, adjoint = derivatives
        for name, found in run.initial.vjp(adjoint).items():
            if name in by_tensor:
                by_tensor[name] += found
            else:
                per_step["loss", name][0] += float(found)
    counts = hypers.count_steps() if average else {}
    numbers = {k: float(v) for k, v in validated.direct.items() if k not in by_tensor}
    direct = hypers.by_parameter_at_end(numbers)
    n_steps = run.steps if average else 1
    gradient = {
        name: total / max(counts.get(name, 1), 1) + direct[name]
        for name, total in hypers.by_parameter(per_step).items()
    }
    for name, value in numbers.items():
        per_step["loss", name][-1] += value
    by_schedule: dict[str, NDArray[np.float64]] = {}  # one may serve several hyperparameters
    for key, values in per_step.items():
        name = hypers.learned[key].name
        by_schedule[name] = by_schedule[name] + values if name in by_schedule else values
    return Hypergradient(
        gradient=gradient,
        loss=validated.loss,
        train_losses=[],
        products=0 if derivatives is None else run.steps,
        mode="reverse",
        tensors={k: v / n_steps + validated.direct[k] for k, v in by_tensor.items()},
        per_step=by_schedule,
    )
