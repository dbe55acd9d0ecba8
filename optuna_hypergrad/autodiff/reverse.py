"""Reverse-mode hypergradients: the run recorded, and gone back over step by step.

Going back costs one Hessian product a step, however many hyperparameters there are. The weights
that it needs come from recorded gradients; where not all of these fit, the run is taken up again
from checkpoints (replay/plan.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from optuna_hypergrad.autodiff.hparams import Key
from optuna_hypergrad.autodiff.loss import Batch, LossFn
from optuna_hypergrad.autodiff.progress import PRODUCT, Progress
from optuna_hypergrad.autodiff.recompute.plan import FAN
from optuna_hypergrad.autodiff.recompute.player import Player
from optuna_hypergrad.autodiff.recompute.tape import Checkpoint, check_replay
from optuna_hypergrad.autodiff.result import Hypergradient
from optuna_hypergrad.autodiff.run import Run
from optuna_hypergrad.autodiff.second_order.hvp import Directions
from optuna_hypergrad.autodiff.step import TrainState, step_vjp
from optuna_hypergrad.autodiff.validation import Statistics


class ReverseMode:
    """A training run, and then its hypergradient.

    Args:
        run: The run.
        player: Goes through it.
        average: Mean over a parameter's steps instead of the sum.
        progress: The bar of the whole outer step.
    """

    def __init__(self, run: Run, player: Player, *, average: bool, progress: Progress) -> None:
        self._run, self._player = run, player
        self._average, self._progress = average, progress
        self._taken = 0
        none = player.losses.new_zeros(run.steps)  # numbers of their own would break up the heap
        self._slopes = {key: none.clone() for key in run.hypers.learned}
        self._adjoint = TrainState(torch.empty(0), ())

    def train(self) -> Iterator[Tensor]:
        """The training; yields the loss of every step."""
        steps = self._run.steps
        self._progress.expect(steps * (2.0 + PRODUCT))  # there, and back with the gradient again
        self._progress.phase("training", steps)
        for step, loss in enumerate(self._player.train()):
            if step == 1 and self._progress.seen:  # the player has made its plan by now
                self._progress.expect(steps * (2.0 + PRODUCT) + self._player.to_replay)
            self._progress.step(1.0, loss)
            yield loss

    @property
    def point(self) -> TrainState:
        """The present weights and what the update remembers, while it trains."""
        return self._player.point

    def hypergradient(
        self,
        validation: Batch | Iterable[Batch],
        *,
        loss_fn: LossFn | None,
        statistics: Statistics,
    ) -> Hypergradient:
        """Derivative of the validation loss of the trained weights with respect to λ."""
        self._point = self._player.point  # until the player goes through the run again
        found = self._run.validated(self._point, validation, loss_fn, statistics)
        validated, self._adjoint = found
        self._run.warn_of_unused()
        hypers = self._run.hypers
        if self._adjoint_is_finite():
            self._go_back()
            per_step = self._per_step()
        else:  # the run has diverged; there is nothing to be had from going back
            per_step = {key: np.full(self._run.steps, np.nan) for key in hypers.learned}
        counts = hypers.steps_of() if self._average else {}
        direct = hypers.direct(validated.direct)
        gradient = {
            name: slope / max(counts.get(name, 1), 1) + direct[name]
            for name, slope in hypers.chained(per_step).items()
        }
        for name, slope in validated.direct.items():
            per_step["loss", name][-1] += slope
        return Hypergradient(
            gradient=gradient,
            loss=validated.loss,
            train_losses=self._player.losses.tolist(),
            products=self._taken,
            mode="reverse",
            per_step=self._by_schedule(per_step),
            replayed=self._player.replayed,
            kept_bytes=self._player.peak_bytes,
            state=self._point.state,
        )

    def finish(self) -> None:
        """Leave the weights that were validated in the model, where these are averages."""
        self._run.finish(self._point)

    def _go_back(self) -> None:
        """Over all steps; the model is left as the training left it."""
        after = self._player.now()
        self._progress.phase("going back", self._run.steps)
        try:
            self._back(self._player.marks, self._run.steps)
        finally:
            self._player.leave(self._point, after)

    def _back(self, marks: list[Checkpoint], stop: int) -> None:
        """From ``stop`` back to the first of the checkpoints; the last stretch is recorded."""
        end = marks.pop()
        self._back_over_records(end.step, stop, end.point)
        while marks:
            start = marks.pop()
            # Nothing but the list of marks holds a checkpoint while its stretch is gone back over.
            again = self._player.replay(start, end, self._progress.spend)
            between, stop, end = again, end.step, start
            self._back(between, stop)

    def _back_over_records(self, first: int, stop: int, point: TrainState) -> None:
        """Over a recorded stretch that begins at ``point``, in ``FAN`` parts."""
        if stop - first == 1:
            self._step_back(first, point)
            return
        parts = min(FAN, stop - first)
        starts = [first + (stop - first) * i // parts for i in range(parts)]
        points = [point, *self._player.points(first, point, starts[1:])]
        ends = [*starts[1:], stop]
        with self._player.holding(points[1:]):
            while points:
                self._back_over_records(starts.pop(), ends.pop(), points.pop())

    def _step_back(self, step: int, point: TrainState) -> None:
        record, values = self._player.tape.steps.pop(step), self._run.at(step)
        gradient, reached = record.gradient, self._run.weights.grad_mask(record.has_grad)
        back = step_vjp(self._run.update, point, gradient, values.update, reached, self._adjoint)
        batches = self._player.revisit(step, point, record)
        own = gradient.new_zeros((1, len(self._run.learned)))
        along = Directions(back.gradient[None], own)
        slope, products = self._run.curvature(batches, values.loss, along, "vjp")
        self._taken += 1
        check_replay(step, slope.gradient, gradient)
        self._adjoint = TrainState(back.adjoint.weights + products.weights[0], back.adjoint.state)
        by_loss = dict(zip(self._run.learned, products.hparams[0], strict=True))
        for owner, name in self._run.hypers.learned:
            slopes = back.hypers if owner == "update" else by_loss
            self._slopes[owner, name][step] = slopes[name]
        self._progress.step(1.0 + PRODUCT)

    def _per_step(self) -> dict[Key, NDArray[np.float64]]:
        """∂(validation loss)/∂(value at each step) by hyperparameter, each of shape (steps,)."""
        found = {key: slopes.double().cpu().numpy().copy() for key, slopes in self._slopes.items()}
        for name, slope in self._run.initial_slopes().items():
            found["loss", name][0] += float(slope @ self._adjoint.weights)
        return found

    def _by_schedule(
        self, per_step: dict[Key, NDArray[np.float64]]
    ) -> dict[str, NDArray[np.float64]]:
        """By the schedules' names; one that serves several hyperparameters gets their sum."""
        total: dict[str, NDArray[np.float64]] = {}
        for key, slopes in per_step.items():
            name = self._run.hypers.learned[key].name
            total[name] = total[name] + slopes if name in total else slopes
        return total

    def _adjoint_is_finite(self) -> bool:
        parts = (self._adjoint.weights, *self._adjoint.state)
        return all(bool(part.isfinite().all()) for part in parts)
