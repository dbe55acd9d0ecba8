"""Reverse mode for R runs: their adjoints, pulled back together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from optuna_hypergrad.autodiff.batched.calls import Call, Known, StackedCalls
from optuna_hypergrad.autodiff.batched.hparams import tensors_of
from optuna_hypergrad.autodiff.batched.runs import RunsBatches, StackedRuns
from optuna_hypergrad.autodiff.growth import AdjointMeter
from optuna_hypergrad.autodiff.hparams import HparamsAtStep
from optuna_hypergrad.autodiff.progress import Progress
from optuna_hypergrad.autodiff.pullback import Pulled, differentiated, numbers_of
from optuna_hypergrad.autodiff.recompute.comparison import check_recomputed
from optuna_hypergrad.autodiff.recompute.recomputation import Recomputation
from optuna_hypergrad.autodiff.recompute.records import Visit
from optuna_hypergrad.autodiff.reverse import Derivatives, damping, go_back
from optuna_hypergrad.autodiff.second_order.clipping import ProductClipping
from optuna_hypergrad.autodiff.step import TrainState


class StackedReverse:
    """The way back of R runs.

    Args:
        runs: The runs.
        recomputation: Their steps.
        clip_products: Bound on the entries of Hessian products, or None.
        meters: The meter of each run.
        known: Traces of steps back of earlier runs.
    """

    def __init__(
        self,
        runs: StackedRuns,
        recomputation: Recomputation,
        clip_products: float | None,
        meters: Sequence[AdjointMeter],
        known: Known,
    ) -> None:
        self._runs, self._recomputation, self._meters = runs, recomputation, meters
        self._clippings = [ProductClipping(clip_products) for _ in meters]
        self._calls = StackedCalls(runs, known, records_all=False)  # as for the gradients

    def backward(self, adjoint: TrainState, bar: Progress | None) -> list[Derivatives | None]:
        """The derivatives of each run; None for those whose adjoint is not finite.

        Args:
            adjoint: ∂(validation loss)/∂(w, s) at the end of each run.
            bar: The progress bar, if there is one.
        """
        first, n_runs = self._runs.runs[0], len(self._runs.runs)
        diverged = [not adjoint.of(i).is_finite() for i in range(n_runs)]
        for part in adjoint.tensors:
            part[diverged] = 0.0
        by_value = adjoint.weights.new_zeros((first.steps, n_runs, len(first.hypers.learned)))
        by_tensor = {
            name: by_value.new_zeros((n_runs, *first.learned[name]))
            for name in first.hypers.tensors
        }
        adjoint = go_back(
            self._recomputation,
            adjoint,
            self._pulled,
            self._damped,
            by_value,
            by_tensor,
            bar,
        )
        rows = by_value.double().permute(1, 2, 0).cpu().numpy().copy()
        return [
            None
            if diverged[i]
            else Derivatives(
                dict(zip(first.hypers.learned, rows[i], strict=True)),
                {name: found[i] for name, found in by_tensor.items()},
                adjoint.weights[i],
            )
            for i in range(n_runs)
        ]

    def clipped(self, i: int) -> float:
        """Fraction of the entries of a run's Hessian products that were clipped."""
        return self._clippings[i].fraction

    def _damped(self, step: int, pulled: Pulled) -> Tensor:
        """The adjoints' weights before a step, shape (R, D)."""
        kept = pulled.kept.weights
        rows = zip(pulled.measured.tolist(), kept, pulled.curved, strict=True)
        measured = [numbers_of(*row) for row in rows]
        of_runs = zip(measured, self._meters, self._clippings, self._runs.runs, strict=True)
        alphas = torch.tensor([[damping(step, *one)] for one in of_runs], dtype=torch.float64)
        return torch.addcmul(kept, alphas.to(kept), pulled.curved)

    def _pulled(self, visit: Visit, adjoint: TrainState) -> Pulled:
        """The derivatives by the inputs of a step, of all runs."""
        runs, values = self._runs, self._runs.hypers.at(visit.step)
        stops = runs.stops_gradients  # so that the loss does not show whether a trace is right
        update, of_loss = values.update, values.loss
        batches: RunsBatches = visit.batches
        more = [*update.tensors, *visit.point.tensors, visit.gradient, *adjoint.tensors]
        inputs = runs.inputs(batches, of_loss, more)
        kind = (inputs.kind, update.constants, len(more), visit.has_grad, stops)
        n = len(runs.runs[0].weights.parameters)

        def call(i: int) -> Call:
            run, own = runs.runs[i], HparamsAtStep(update.of(i), of_loss.of(i))
            flags = visit.has_grad[i * n : (i + 1) * n]
            point, after, gradient = visit.point.of(i), adjoint.of(i), visit.gradient[i]
            one = Visit(visit.step, point, gradient, flags, batches[i], visit.snapshot)

            def function() -> tuple[list[Tensor], None]:
                found, pulled = differentiated(run, self._clippings[i], one, after, own)
                return [*pulled.tensors, *([found] if stops else [])], None

            more = [*tensors_of(own.update), *point.tensors, gradient, *after.tensors]
            return Call(function, [*runs.inputs_of(i, batches, own.loss), *more])

        found = self._calls(
            kind if inputs.kind is not None else None, inputs.tensors, inputs.is_stacked, call
        )
        expected = self._recomputation.losses[visit.step]
        is_finite = expected.isfinite()  # else the run has diverged
        if stops:
            gradients = found.tensors.pop()[is_finite]
            check_recomputed(visit.step, gradients, visit.gradient[is_finite])
        pulled = Pulled.of(found.tensors, runs.runs[0].hypers.tensors)
        loss = pulled.measured[:, 0].to(expected)
        check_recomputed(visit.step, loss[is_finite], expected[is_finite])
        return pulled
