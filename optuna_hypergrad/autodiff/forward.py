"""Forward mode: tangents ∂w/∂λ propagated with the weights, in constant memory."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from optuna_hypergrad.autodiff.batches import TrainingBatches
from optuna_hypergrad.autodiff.data import Batch
from optuna_hypergrad.autodiff.growth import Estimate, TangentMeter
from optuna_hypergrad.autodiff.hparams import HparamsAtStep, RunHparams
from optuna_hypergrad.autodiff.loss import LossFn, LossGrad, Statistics
from optuna_hypergrad.autodiff.progress import PRODUCT, Progress
from optuna_hypergrad.autodiff.result import Hypergradient
from optuna_hypergrad.autodiff.run import Run
from optuna_hypergrad.autodiff.second_order.clipping import ProductClipping
from optuna_hypergrad.autodiff.second_order.hvp import Directions
from optuna_hypergrad.autodiff.step import TrainState, step_jvp
from optuna_hypergrad.autodiff.tangents import ActiveTangents, TangentSchedule
from optuna_hypergrad.autodiff.tracing import Traces

_MOST_TENSORS = 256  # small ones, that are kept on the device


@runtime_checkable
class TangentObserver(Protocol):
    """An ``on_step`` that observes the tangents as well."""

    def attach(self, tangent_norm: Callable[[], float]) -> None:
        """Take a function that returns the largest norm of a tangent ∂w/∂λ at present."""


class TangentPropagation:
    """A run whose steps take the tangents along.

    Args:
        run: The run.
        tangents: Which tangents move at which step.
        average: Mean over a parameter's steps instead of the sum.
        clip_products: Bound on the entries of Hessian products, or None.
        estimate: ``"damped"`` or ``"exact"``.
    """

    def __init__(
        self,
        run: Run,
        tangents: TangentSchedule,
        *,
        average: bool,
        clip_products: float | None,
        estimate: Estimate,
    ) -> None:
        self._run, self._schedule, self._average = run, tangents, average
        self._point = run.begin()
        self._tangents = self._initial_tangents()
        self._clipping = ProductClipping(clip_products)
        self._meter = TangentMeter(estimate, run.steps, self._point.weights)
        self._traces = Traces()
        self._tensors: dict[Hashable, Tensor] = {}
        self._begun: list[int] = [0] * len(self._tangents.weights)  # the step, by tangent
        self._n_products = 0
        self._losses = self._point.weights.new_empty(run.steps)
        self._step = 0

    def step(self, *batches: Batch) -> Tensor:
        """Train on one batch, or on the mean loss of several, and propagate the tangents.

        Returns:
            The training loss before the step, a tensor of shape ().

        Raises:
            ValueError: If all steps of the run are done, or the loss is not a scalar that depends
                on the weights.
        """
        run, step = self._run, self._step
        if not batches:
            raise ValueError("batches: got none, expected at least one batch.")
        if step == run.steps:
            raise ValueError(f"steps: all {step} steps of this run are done.")
        hypers = run.hypers.at(step)
        if self._schedule.names:
            grad = self._propagate(batches, hypers)
        else:
            grad = run.gradient(batches, hypers.loss)
        self._point = run.step(step, self._point, grad, hypers.update)
        self._losses[step] = grad.loss
        self._step += 1
        return grad.loss

    def train(self, batches: TrainingBatches, bar: Progress | None) -> Iterator[Tensor]:
        """Take all steps; yields the training loss of each."""
        costs = [1.0] * self._run.steps
        if bar is not None and bar.is_shown:
            fresh = self._schedule.restarted()
            costs = [1.0 + PRODUCT * len(fresh.active_at(i).rows) for i in range(self._run.steps)]
            bar.expect(sum(costs))
        for cost in costs:
            loss = self.step(*batches.take())
            if bar is not None:
                bar.step(cost, loss)
            yield loss

    def hypergradient(
        self,
        validation: Batch | Iterable[Batch],
        *,
        loss_fn: LossFn | None = None,
        statistics: Statistics = "batch",
    ) -> Hypergradient:
        """Derivative of the validation loss of the current weights with respect to λ.

        Args:
            validation: One batch (a tensor, a mapping, or a tuple or list that holds a tensor),
                or an iterable of batches, each weighted by its number of examples. If the training
                batches are tensors themselves, a list of tensors is a list of batches.
            loss_fn: The validation loss; None for the training loss.
            statistics: Statistics for batch norm, ``"batch"`` or ``"running"``; see ``validate``.
                Running statistics do not advance in either case.

        Returns:
            The hypergradient of each learned parameter; 0.0 if its window has not begun, unless
            the validation loss itself depends on it.
        """
        validated, adjoint = self._run.validate(self._point, validation, loss_fn, statistics)
        through_weights = self._tangents.times(adjoint).tolist()
        direct = {name: float(value) for name, value in validated.direct.items()}
        gradient = self._run.hypers.by_parameter_at_end(direct)
        gradient = {name: gradient[name] for name in self._schedule.names}
        for name, row in self._schedule.rows.items():
            count = self._schedule.n_steps[name] if self._average else 1
            gradient[name] += through_weights[row] / max(count, 1)
        return Hypergradient(
            gradient=gradient,
            loss=validated.loss,
            train_losses=self._losses[: self._step].tolist(),
            products=self._n_products,
            mode="forward",
            growth=self._meter.growth(self._run.hypers) if gradient else None,
            clipped=self._clipping.fraction,
            tangent_norm=self.tangent_norm,
            state=self._point.state,
        )

    def finish(self) -> None:
        """Give the model the weights that were validated, for an update that averages them.

        No step may follow.
        """
        self._run.finish(self._point)

    @property
    def point(self) -> TrainState:
        """The current weights and state of the update."""
        return self._point

    @property
    def tangent_norm(self) -> float:
        """Largest Euclidean norm of a tangent ∂w/∂λ at present; 0.0 before the first begins."""
        norms = self._tangents.weights.norm(dim=1)
        return float(norms.max()) if len(norms) else 0.0

    def _propagate(self, batches: Sequence[Batch], hypers: HparamsAtStep) -> LossGrad:
        """The training gradient of a step; the tangents are then those after it."""
        run = self._run
        n_before, active = len(self._tangents.weights), self._schedule.active_at(self._step)
        self._tangents = self._tangents.padded(len(self._schedule.rows))
        tangents = self._tangents.rows(active.rows)
        of_loss = self._loss_derivatives(active)
        # Tangents that begin now are zero; the gradient changes along them only through the loss.
        moving = [i for i, row in enumerate(active.rows) if row < n_before or any(of_loss[i])]
        directions = Directions(
            tangents.rows(moving).weights,
            self._tensor([of_loss[i] for i in moving]).reshape(len(moving), len(run.learned)),
        )
        grad, found = run.gradient_and_products(batches, hypers.loss, directions, "jvp")
        products, n_clipped = self._clipping(found.weights)
        if len(moving) < len(active.rows):
            index = self._tensor(moving).long()
            zeros = tangents.weights.new_zeros(tangents.weights.shape)
            products = zeros.index_copy(0, index, products)
        self._clipping.count(n_clipped, found.weights.numel())
        of_update = {
            name: self._tensor(values).clone()  # which an update may change in place
            for (owner, name), values in active.derivatives.items()
            if owner == "update"
        }
        push = partial(
            step_jvp,
            run.update,
            self._point,
            gradient=grad.gradient,
            hypers=hypers.update,
            mask=run.weights.grad_mask(grad.has_grad),
            traces=self._traces,
        )
        new = self._damped(push, active.rows, tangents, products, of_update)
        self._tangents = self._tangents.with_rows(active.rows, new)
        self._n_products += len(moving)
        return grad

    def _damped(
        self,
        push: Callable[..., TrainState],
        rows: list[int],
        tangents: TrainState,
        products: Tensor,
        derivatives: dict[str, Tensor],
    ) -> TrainState:
        """The tangents after a step, which ``push`` takes."""
        new = push(tangents=tangents, products=products, derivatives=derivatives)
        step, ages = self._step, self._ages(rows)
        if not self._meter.grows(step, ages, tangents.weights, new.weights):
            return new
        # A step is linear in the tangents, so these differences are its parts.
        kept = push(tangents=tangents, products=torch.zeros_like(products), derivatives=derivatives)
        at_rest = {name: torch.zeros_like(values) for name, values in derivatives.items()}
        unmoved = push(tangents=tangents, products=products, derivatives=at_rest)
        alpha = self._meter.weights(
            step,
            ages,
            before=tangents.weights,
            added=new.weights - unmoved.weights,
            kept=kept.weights,
            curved=new.weights - kept.weights,
        )
        return kept.towards(new, alpha)

    def _ages(self, rows: list[int]) -> Tensor:
        """The number of steps since each of some tangents began, shape (N,)."""
        self._begun += [self._step] * (len(self._schedule.rows) - len(self._begun))
        return self._step - self._tensor([self._begun[row] for row in rows])

    def _initial_tangents(self) -> TrainState:
        """∂w/∂λ of the initial weights; a row for each λ that they depend on."""
        rows: dict[str, Tensor] = {}
        for hparam, by_hparam in self._run.initial.jacobian().items():
            for name, derivative in self._run.hypers.derivatives(("loss", hparam), 0).items():
                rows[name] = rows.get(name, 0.0) + derivative * by_hparam
        self._schedule.begin(rows)
        none = self._point.weights.new_empty((0, len(self._run.weights)))
        begun = [rows[name] for name in self._schedule.rows]
        return TrainState(torch.stack(begun) if begun else none, ())

    def _loss_derivatives(self, active: ActiveTangents) -> list[list[float]]:
        """∂h/∂λ of the learned hyperparameters of the loss, (tangents, P)."""
        zeros = [0.0] * len(active.rows)
        by_hparam = [active.derivatives.get(("loss", k), zeros) for k in self._run.learned]
        return [[values[i] for values in by_hparam] for i in range(len(active.rows))]

    def _tensor(self, values: Sequence[float] | Sequence[Sequence[float]]) -> Tensor:
        """Numbers on the device; those that are the same at many steps are copied there once."""
        key = tuple(one if isinstance(one, int | float) else tuple(one) for one in values)
        if key not in self._tensors:
            if len(self._tensors) == _MOST_TENSORS:
                self._tensors.clear()
            self._tensors[key] = self._point.weights.new_tensor(values)
        return self._tensors[key]


def check_without_tensors(hypers: RunHparams) -> None:
    """Raise a ValueError if a tensor is to be learned, which forward mode does not."""
    if hypers.tensors:
        raise ValueError(
            f"hypers: {hypers.tensors[0]!r} is a tensor, and forward mode would take a tangent for "
            "each of its elements. Use hypergradient(mode='reverse'), or leave it out of learn."
        )
