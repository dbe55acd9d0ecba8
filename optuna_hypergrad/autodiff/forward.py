"""Forward-mode hypergradients: tangents carried along with the weights, in constant memory."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import torch
from torch import Tensor, nn

from optuna_hypergrad.arguments import check_positive
from optuna_hypergrad.autodiff.hparams import HparamsAtStep
from optuna_hypergrad.autodiff.loss import Batch, LossFn, LossGrad
from optuna_hypergrad.autodiff.result import Hypergradient
from optuna_hypergrad.autodiff.run import Initial, Run
from optuna_hypergrad.autodiff.second_order.hvp import Directions, Products
from optuna_hypergrad.autodiff.step import TrainState, step_jvp
from optuna_hypergrad.autodiff.tangents import Active, Columns, Truncation
from optuna_hypergrad.autodiff.updates import Hyper, State, Update
from optuna_hypergrad.autodiff.validation import Statistics


class ForwardMode:
    """Training steps that carry the derivatives of the weights along.

    For a training loop of one's own; ``hypergradient`` is the loop ready made. The model is
    trained in place. Its mode is left as it is: call ``model.train()`` where it is needed.

    Args:
        model: The model, with its initial weights.
        loss_fn: ``loss_fn(model, batch)``, or ``loss_fn(model, batch, hypers)`` where ``hypers``
            are given: the mean training loss as a scalar tensor.
        update: The inner update, its hyperparameters numbers or schedules.
        steps: Number of steps of the whole run (the horizon), which places the windows.
        hypers: Hyperparameters of the loss by name, numbers or schedules; the loss functions get
            their values at the step as a third argument (in validation those of the last step):
            floats, or tensors of shape () where they are learned.
        initial: ``initial(weights, hypers)``: new values for some of the initial weights, from
            all of them by name and the values of ``hypers`` at the first step.
        learn: Names of the trial parameters to differentiate; None for all parameters of all
            schedules, ``()`` for plain training.
        average: Divide each hypergradient by the number of steps that its parameter took part in
            (a mean over the window instead of a sum, as the paper does). Signs do not change.
        truncate: Fraction of each window's steps, in [0, 1), at which its tangents stand still;
            cheaper and biased. The paper stays at 0.15 or below.
        truncation: ``"leading"``: the first steps of each window; ``"alternate"``: evenly spread.
        clip_products: Largest absolute value of an entry of a Hessian product (the paper: 10), or
            None for exact hypergradients.
        clip_gradients: Largest absolute value of an entry of the training gradient, or None. It
            changes the training itself, and the hypergradients are those of the changed training.
        constant_buffers: Buffers of the model, or modules with all of theirs, by their paths: what
            later steps owe to the weights through them counts as constant. Running statistics of
            batch norm always do.
        products: How Hessian products are taken; the result is the same to rounding. By double
            backward passes, ``"loop"``: column by column, or ``"batched"``: at once, faster for
            small matrices; ``"forward"`` and ``"forward-batched"``: by forward mode over the
            gradient; ``"auto"``: the fastest that works, tried out on the first batch.
        state: What the update remembers from an earlier run, its ``result.state``, to go on from;
            None for a start from nothing. It counts as fixed: hypergradients see nothing of the
            runs before.

    Raises:
        ValueError: If an argument is out of range; the message names it.

    Reference:
        Forward-mode differentiation with shared hyperparameters: FDS, Section 3.2 and Algorithm 1.

    Example:
        >>> import torch
        >>> from optuna_hypergrad import Schedule
        >>> from optuna_hypergrad.autodiff import SGD, ForwardMode
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> _ = torch.nn.init.constant_(model.weight, 1.0)
        >>> loss = lambda model, batch: (model(batch) ** 2).mean() / 2
        >>> run = ForwardMode(model, loss, SGD(Schedule("lr", [0.5])), steps=2)
        >>> x = torch.ones(1, 1)
        >>> losses = [float(run.step(x)) for _ in range(2)]
        >>> losses                                  # w halves at every step: w = (1 − lr)²
        [0.5, 0.125]
        >>> run.hypergradient(x).gradient           # w · dw/dlr = 0.25 · (−1)
        {'lr': -0.25}
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFn,
        update: Update,
        *,
        steps: int,
        hypers: Mapping[str, Hyper] | None = None,
        initial: Initial | None = None,
        learn: Collection[str] | None = None,
        average: bool = False,
        truncate: float = 0.0,
        truncation: Truncation = "leading",
        clip_products: float | None = None,
        clip_gradients: float | None = None,
        constant_buffers: Collection[str] = (),
        products: Products = "auto",
        state: State | None = None,
    ) -> None:
        run = Run(
            model,
            loss_fn,
            update,
            steps=steps,
            hypers=hypers,
            initial=initial,
            learn=learn,
            clip_gradients=clip_gradients,
            products=products,
            constant_buffers=constant_buffers,
            state=state,
        )
        columns = Columns(run.hypers, truncate, truncation)
        self._begin(run, columns, average, clip_products)

    @classmethod
    def over(
        cls, run: Run, columns: Columns, average: bool, clip_products: float | None
    ) -> ForwardMode:
        """Forward mode over a run that is there already."""
        forward = cls.__new__(cls)
        forward._begin(run, columns, average, clip_products)
        return forward

    def _begin(
        self, run: Run, columns: Columns, average: bool, clip_products: float | None
    ) -> None:
        check_positive("clip_products", clip_products, or_none=True)
        self._run, self._columns = run, columns
        self._average, self._clip_products = average, clip_products
        self._point = self._run.begin()
        self._tangents = self._initial_tangents()
        self._clipped = self._tensor(0).long()  # a tensor, not to wait for the device at each step
        self._taken = 0
        self._losses = self._point.weights.new_empty(run.steps)
        self._step = 0

    def step(self, *batches: Batch) -> Tensor:
        """Train on one batch, or on the mean loss of several, and move the tangents along.

        Returns:
            The training loss before the step, a tensor of shape ().

        Raises:
            ValueError: If the run has already had all its steps, or the loss is no scalar that
                depends on the weights.
        """
        step = self._step
        if not batches:
            raise ValueError("batches: got none, expected at least one batch.")
        if step == self._run.steps:
            raise ValueError(f"steps: all {step} steps of this run are done.")
        if step == 0:
            self._run.prepare(batches[0], self._columns.rows)
        hypers = self._run.at(step)
        active = self._columns.advance(step)
        places, directions = self._directions(active)
        slope, products = self._run.curvature(batches, hypers.loss, directions, "jvp")
        self._run.check_weights(step, self._point, "loss_fn")
        self._taken += len(places)
        self._move(active, slope, places, products.weights, hypers)
        self._losses[step] = slope.loss
        self._step += 1
        return slope.loss

    def hypergradient(
        self,
        validation: Batch | Iterable[Batch],
        *,
        loss_fn: LossFn | None = None,
        statistics: Statistics = "batch",
    ) -> Hypergradient:
        """Derivative of the validation loss of the present weights with respect to λ.

        Args:
            validation: One batch (a tensor, a mapping, or a tuple or list that holds a tensor),
                or an iterable of batches, each of which counts by its number of examples. Where
                the training batches are tensors themselves, a list of tensors is a list of batches.
            loss_fn: The validation loss, where it is another than the training loss.
            statistics: What batch norm normalises with: ``"batch"`` or ``"running"``; see
                ``validate``. Running statistics advance in neither case.

        Returns:
            The hypergradient of each learned parameter; 0.0 where its window has yet to begin,
            unless the validation loss itself depends on it.
        """
        validated, adjoint = self._run.validated(self._point, validation, loss_fn, statistics)
        self._run.warn_of_unused()
        gradient = dict.fromkeys(self._columns.names, 0.0)
        slopes = self._tangents.times(adjoint).tolist()
        for name, row in self._columns.begun.items():
            count = self._columns.taken_part[name] if self._average else 1
            gradient[name] = slopes[row] / max(count, 1)
        direct = self._run.hypers.direct(validated.direct)
        gradient = {name: slope + direct[name] for name, slope in gradient.items()}
        return Hypergradient(
            gradient=gradient,
            loss=validated.loss,
            train_losses=self._losses[: self._step].tolist(),
            products=self._taken,
            mode="forward",
            clipped=int(self._clipped) / max(self._taken * len(self._run.weights), 1),
            tangent_norm=self.tangent_norm,
            state=self._point.state,
        )

    def finish(self) -> None:
        """At the end, leave in the model the weights that were validated, where these are averages.

        No step may follow.
        """
        self._run.finish(self._point)

    @property
    def point(self) -> TrainState:
        """The present weights and what the update remembers."""
        return self._point

    @property
    def tangent_norm(self) -> float:
        """Largest Euclidean norm of a column of ∂w/∂λ so far; 0.0 before the first begins."""
        norms = self._tangents.weights.norm(dim=1)
        return float(norms.max()) if len(norms) else 0.0

    def _initial_tangents(self) -> TrainState:
        """∂w/∂λ of the initial weights; a column for each λ that they depend on."""
        columns: dict[str, Tensor] = {}
        for hyper, slope in self._run.initial_slopes().items():
            for name, weight in self._run.hypers.slopes(("loss", hyper), 0).items():
                columns[name] = columns.get(name, 0.0) + weight * slope
        self._columns.begin(columns)
        rows = [columns[name] for name in self._columns.begun]
        none = self._tensor([]).reshape(0, len(self._run.weights))
        return TrainState(torch.stack(rows) if rows else none, ())

    def _directions(self, active: Active) -> tuple[list[int], Directions]:
        """The active rows that the gradient changes along, by place, and these directions."""
        count = len(active.rows)
        own = [active.derivatives.get(("loss", k), [0.0] * count) for k in self._run.learned]
        known = len(self._tangents.weights)  # rows beyond have yet to leave zero
        places = [
            i for i, row in enumerate(active.rows) if row < known or any(slope[i] for slope in own)
        ]
        rows = [active.rows[i] for i in places]
        weights = self._tangents.grown(max([known, *(row + 1 for row in rows)])).rows(rows).weights
        hypers = self._tensor([[slope[i] for slope in own] for i in places])
        return places, Directions(weights, hypers.reshape(len(places), len(own)))

    def _move(
        self,
        active: Active,
        slope: LossGrad,
        places: list[int],
        found: Tensor,
        hypers: HparamsAtStep,
    ) -> None:
        count = len(active.rows)
        products = found.new_zeros((count, found.shape[1]))
        products[places] = found
        every = self._tangents.grown(len(self._columns.begun))
        slopes = {
            k: self._tensor(v) for (who, k), v in active.derivatives.items() if who == "update"
        }
        self._point, tangents = step_jvp(
            self._run.update,
            self._point,
            every.rows(active.rows),
            slope.gradient,
            self._clip(products),
            hypers.update,
            slopes,
            self._run.weights.grad_mask(slope.has_grad),
        )
        self._tangents = every.replaced(active.rows, tangents)
        self._run.weights.write(self._point.weights)

    def _clip(self, products: Tensor) -> Tensor:
        if self._clip_products is None:
            return products
        self._clipped += (products.abs() > self._clip_products).sum()
        return products.clamp(-self._clip_products, self._clip_products)

    def _tensor(self, values: float | list[float] | list[list[float]]) -> Tensor:
        return self._point.weights.new_tensor(values)
