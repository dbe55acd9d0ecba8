"""Forward-mode hypergradients: tangents carried along with the weights, in constant memory."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from optuna_hypergrad.autodiff.columns import Active, Columns, Truncation
from optuna_hypergrad.autodiff.products import Products, choose_products, hessian_products
from optuna_hypergrad.autodiff.tangents import Carried, advance, with_rows
from optuna_hypergrad.autodiff.updates import Update
from optuna_hypergrad.autodiff.validation import Batch, LossFn, Statistics, validate
from optuna_hypergrad.autodiff.weights import FlatWeights, Gradients
from optuna_hypergrad.schedules import Schedule, checked_count


@dataclass(frozen=True)
class Hypergradient:
    """What a training run with hypergradients gives back."""

    gradient: dict[str, float]
    """∂(validation loss)/∂λ by trial parameter, in loss per unit of the parameter."""
    loss: float
    """Mean validation loss of the weights that the run ended with."""
    train_losses: list[float]
    """Training loss of every step's batch, before the step."""
    products: int
    """Hessian products taken; each costs about as much as one to two gradients."""
    clipped: float
    """Fraction of the entries of all Hessian products that ``clip_products`` changed."""
    tangent_norm: float
    """Largest Euclidean norm of a column of ∂w/∂λ; explodes before hypergradients turn to noise."""


class ForwardMode:
    """Training steps that carry the derivatives of the weights along.

    For a training loop of one's own; ``hypergradient`` is the loop ready made. The model is
    trained in place. Its mode is left as it is: call ``model.train()`` where it is needed.

    Args:
        model: The model, with its initial weights.
        loss_fn: ``loss_fn(model, batch)``, the mean training loss as a scalar tensor.
        update: The inner update, its hyperparameters numbers or schedules.
        steps: Number of steps of the whole run (the horizon), which places the windows.
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
        products: How Hessian products are taken; the result is the same to rounding. ``"loop"``:
            column by column; ``"batched"``: at once, faster for small matrices; ``"auto"``: by
            the kinds of the model's modules.

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
        learn: Collection[str] | None = None,
        average: bool = False,
        truncate: float = 0.0,
        truncation: Truncation = "leading",
        clip_products: float | None = None,
        clip_gradients: float | None = None,
        products: Products = "auto",
    ) -> None:
        self._steps = checked_count("steps", steps)
        if not hasattr(update, "hypers"):
            raise ValueError(
                f"update must be one of this package's kind, for example SGD: {update}."
            )
        for name, bound in (("clip_products", clip_products), ("clip_gradients", clip_gradients)):
            if bound is not None and not bound > 0:
                raise ValueError(f"{name} must be positive or None, got {bound}.")
        self._model, self._loss_fn, self._update = model, loss_fn, update
        self._columns = Columns(update.hypers, learn, self._steps, truncate, truncation)
        self._products = choose_products(model, products)
        self._average = average
        self._clip_products, self._clip_gradients = clip_products, clip_gradients
        self._flat = FlatWeights(model)
        self._point = Carried(self._flat.read(), ())
        self._tangents = Carried(self._point.weights.new_zeros((0, len(self._point.weights))), ())
        self._clipped = self._tensor(0).long()  # a tensor, not to wait for the device at each step
        self._taken = 0
        self._losses: list[Tensor] = []

    def step(self, batch: Batch) -> Tensor:
        """Train on one batch and move the tangents along.

        Returns:
            The training loss before the step, a tensor of shape ().

        Raises:
            ValueError: If the run has already had all its steps, or the loss is no scalar that
                depends on the weights.
        """
        if len(self._losses) == self._steps:
            raise ValueError(f"steps: all {self._steps} steps of this run are done.")
        loss = self._loss_fn(self._model, batch)
        active = self._columns.advance(len(self._losses))
        gradients = self._flat.gradients(loss, twice=bool(self._known(active)))
        self._move(active, gradients)
        self._flat.write(self._point.weights)
        self._losses.append(loss.detach().reshape(()))
        return self._losses[-1]

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
                or an iterable of batches, each of which counts by its number of examples.
            loss_fn: The validation loss, where it is another than the training loss.
            statistics: What batch norm normalises with: ``"batch"`` or ``"running"``; see
                ``validate``. Running statistics advance in neither case.

        Returns:
            The hypergradient of each learned parameter; 0.0 where its window has yet to begin.
        """
        validated = validate(
            self._model, loss_fn or self._loss_fn, self._flat, validation, statistics
        )
        slopes = (self._tangents.weights @ validated.gradient).tolist()
        gradient = dict.fromkeys(self._columns.ordered, 0.0)
        for name, row in self._columns.begun.items():
            count = self._columns.taken_part[name] if self._average else 1
            gradient[name] = slopes[row] / count
        return Hypergradient(
            gradient=gradient,
            loss=validated.loss,
            train_losses=torch.stack(self._losses).tolist() if self._losses else [],
            products=self._taken,
            clipped=int(self._clipped) / max(self._taken * len(self._point.weights), 1),
            tangent_norm=self.tangent_norm,
        )

    @property
    def tangent_norm(self) -> float:
        """Largest Euclidean norm of a column of ∂w/∂λ so far; 0.0 before the first begins."""
        norms = self._tangents.weights.norm(dim=1)
        return float(norms.max()) if len(norms) else 0.0

    def _move(self, active: Active, gradients: Gradients) -> None:
        known = self._tangents.rows(self._known(active)).weights
        products = hessian_products(self._flat, gradients, known, self._products)
        self._taken += len(products)
        products = with_rows(products, len(active.rows))  # columns that begin here are zero
        all_tangents = self._tangents.grown(len(self._columns.begun))
        before = all_tangents.rows(active.rows)
        gradient, products = self._clip(self._flat.join(gradients), products)
        slopes = {hyper: self._tensor(values) for hyper, values in active.derivatives.items()}
        point, tangents = advance(
            self._update, self._point, before, gradient, products, self._hypers(), slopes
        )
        reached = self._flat.reached(gradients)
        if reached is not None:  # like torch.optim, leave alone what has no gradient
            point = self._point.moved_where(reached, point)
            tangents = before.moved_where(reached, tangents)
        self._point, self._tangents = point, all_tangents.replaced(active.rows, tangents)

    def _known(self, active: Active) -> list[int]:
        """The rows that are not zero yet; those of columns that begin at this step come last."""
        return [row for row in active.rows if row < len(self._tangents.weights)]

    def _clip(self, gradient: Tensor, products: Tensor) -> tuple[Tensor, Tensor]:
        if self._clip_gradients is not None:
            # The derivative of clamp(g) is m⊙(H·z), the mask after the product.
            products = products * (gradient.abs() <= self._clip_gradients)
            gradient = gradient.clamp(-self._clip_gradients, self._clip_gradients)
        if self._clip_products is not None:
            self._clipped += (products.abs() > self._clip_products).sum()
            products = products.clamp(-self._clip_products, self._clip_products)
        return gradient, products

    def _hypers(self) -> dict[str, float | Tensor]:
        step = len(self._losses)
        hypers = self._update.hypers.items()
        values = {k: h.at(step, self._steps) if isinstance(h, Schedule) else h for k, h in hypers}
        learned = self._columns.learned
        return {k: self._tensor(v) if k in learned else v for k, v in values.items()}

    def _tensor(self, values: float | list[float]) -> Tensor:
        return self._point.weights.new_tensor(values)
