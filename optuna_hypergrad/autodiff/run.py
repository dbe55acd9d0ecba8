"""What forward and reverse mode share: one training run, a step at a time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import jacfwd

from optuna_hypergrad.arguments import check_kind, check_positive, checked_count
from optuna_hypergrad.autodiff.carried import Carried, moved
from optuna_hypergrad.autodiff.forward_ad import forward_mode
from optuna_hypergrad.autodiff.hypers import AtStep, Hypers
from optuna_hypergrad.autodiff.objective import Batch, LossFn, Objective, Slope
from optuna_hypergrad.autodiff.preflight import checked_products, preflight, use
from optuna_hypergrad.autodiff.products import WAYS, Along, Products
from optuna_hypergrad.autodiff.updates import Clipped, Hyper, Update, evaluated
from optuna_hypergrad.autodiff.updates.protocol import Values, check_update, checked_hypers
from optuna_hypergrad.autodiff.validation import Statistics, Validated, validate
from optuna_hypergrad.autodiff.weights import FlatWeights

Initial = Callable[[Mapping[str, Tensor], Values], Mapping[str, Tensor]]
Microbatches = Sequence[Batch]  # whose losses one step takes the mean of


class Run:
    """A model that is trained in place: its loss, its update and its hyperparameters.

    The arguments are those of ``ForwardMode``. The model always holds the present weights.
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
        clip_gradients: float | None = None,
        products: Products = "auto",
    ) -> None:
        self.steps = checked_count("steps", steps)
        check_update(update)
        check_positive("clip_gradients", clip_gradients, or_none=True)
        check_kind("hypers", hypers, Mapping | None, "a mapping or None")
        self.update = update if clip_gradients is None else Clipped(update, value=clip_gradients)
        own = checked_hypers(hypers or {})
        self.hypers = Hypers(self.update.hypers, own, learn, self.steps)
        self.weights = FlatWeights(model)
        self.objective = Objective(
            model, loss_fn, self.weights, self.hypers.learned_by("loss"), hypers is not None
        )
        self._initial = initial
        self._products, self._way = checked_products(products), WAYS["loop"]
        self._rows = 0  # at a time, for which a way has been found
        self.of_tensors = False  # whether each training batch is a tensor, as seen at every step

    @property
    def learned(self) -> list[str]:
        """The learned hyperparameters of the loss, P of them."""
        return self.objective.learned

    @property
    def at_once(self) -> bool:
        """Whether all products of a step are taken at once."""
        return self._way.at_once

    def at(self, step: int) -> AtStep:
        """Values of the hyperparameters at ``step``."""
        return self.hypers.at(step, self.weights.parameters[0])

    def begin(self) -> Carried:
        """The weights to start from, which the model then holds."""
        if self._initial is not None:
            self._given = self.weights.read()
            self.weights.write(self._initialised(self._own()))
        return Carried(self.weights.read(), ())

    def initial_slopes(self) -> dict[str, Tensor]:
        """∂(initial weights)/∂(value at step 0) by learned hyperparameter of the loss, (D,)."""
        if self._initial is None or not self.learned:
            return {}
        with forward_mode:
            slopes = jacfwd(self._initialised)(self._own()).T
        return dict(zip(self.learned, slopes, strict=True))

    def prepare(self, batch: Batch, rows: int) -> None:
        """Find on the first batch how to take the products with ``rows`` rows at a time."""
        if rows != self._rows:
            self._rows = rows
            with torch.enable_grad():
                found = preflight(self.objective, self._products, batch, self.at(0).loss, rows)
            use(self.objective, found)
            self._way = WAYS[found.way]

    def slope(self, batches: Microbatches, hypers: Values) -> Slope:
        """The mean loss of the batches at the model's weights, and its gradient."""
        self.of_tensors = isinstance(batches[0], Tensor)
        return Slope.mean([self.objective.slope(batch, hypers) for batch in batches])

    def curvature(self, batches: Microbatches, hypers: Values, along: Along) -> tuple[Slope, Along]:
        """The slope, and the Hessian's products with the rows of ``along``."""
        self.of_tensors = isinstance(batches[0], Tensor)
        found = [self._way(self.objective, batch, hypers, along) for batch in batches]
        slopes, products = zip(*found, strict=True)
        return Slope.mean(slopes), Along.mean(products)

    def moved(self, point: Carried, slope: Slope, hypers: Values) -> Carried:
        """One step on; the model holds the new weights."""
        reached = self.weights.reached(slope.reached)
        new = moved(self.update, point, slope.gradient, hypers, reached)
        self.weights.write(new.weights)
        return new

    def validated(
        self,
        point: Carried,
        validation: Batch | Iterable[Batch],
        loss_fn: LossFn | None,
        statistics: Statistics,
    ) -> tuple[Validated, Carried]:
        """The validation loss of the weights at ``point``, and its derivative by w and s there."""
        objective = self.objective.of(loss_fn) if loss_fn is not None else self.objective
        last = self.at(self.steps - 1)
        self.weights.write(evaluated(self.update, *point))
        try:
            found = validate(objective, validation, statistics, last.loss, self.of_tensors)
        finally:
            self.weights.write(point.weights)
        return found, self._taken_back(point, found.gradient)

    def finish(self, point: Carried) -> None:
        """Leave the weights that were validated in the model: averages, where it takes them."""
        self.weights.write(evaluated(self.update, *point))

    def _taken_back(self, point: Carried, slope: Tensor) -> Carried:
        """From the derivative by the weights that are validated to that by w and s."""
        weights, *state = (part.detach().requires_grad_() for part in (point.weights, *point.state))
        with torch.enable_grad():
            used = evaluated(self.update, weights, tuple(state))
        found = torch.autograd.grad(
            used, [weights, *state], slope, allow_unused=True, materialize_grads=True
        )
        return Carried(found[0], found[1:])

    def _own(self) -> Tensor:
        """Values of the learned hyperparameters of the loss at step 0, shape (P,)."""
        values = self.at(0).loss
        like = self.weights.parameters[0]
        return like.new_tensor([float(values[name]) for name in self.objective.learned])

    def _initialised(self, own: Tensor) -> Tensor:
        """The initial weights as a function of the learned hyperparameters, shape (D,)."""
        assert self._initial is not None
        values = {**self.at(0).loss, **dict(zip(self.objective.learned, own, strict=True))}
        named = dict(zip(self.weights.names, self.weights.split(self._given), strict=True))
        chosen = self._initial(named, values)
        unknown = [name for name in chosen if name not in named]
        if unknown:
            raise ValueError(f"initial: {unknown[0]!r} is not a learned weight ({list(named)}).")
        for name, weight in chosen.items():
            if weight.shape != named[name].shape:
                raise ValueError(
                    f"initial: {name} must have shape {tuple(named[name].shape)}, got "
                    f"{tuple(weight.shape)}."
                )
        return torch.cat([{**named, **chosen}[name].reshape(-1) for name in named])
