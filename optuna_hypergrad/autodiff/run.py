"""What forward and reverse mode share: one training run, a step at a time."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import jacfwd

from optuna_hypergrad.arguments import check_kind, check_positive, checked_count
from optuna_hypergrad.autodiff.checks import is_named
from optuna_hypergrad.autodiff.hparams import HparamsAtStep, RunHparams
from optuna_hypergrad.autodiff.loss import Batch, LossFn, LossGrad, TrainingLoss
from optuna_hypergrad.autodiff.second_order.hvp import (
    HVP_METHODS,
    Directions,
    Product,
    Products,
    forward_mode,
)
from optuna_hypergrad.autodiff.second_order.preflight import (
    check_update,
    check_validation,
    checked_products,
    preflight,
)
from optuna_hypergrad.autodiff.step import TrainState, moved
from optuna_hypergrad.autodiff.updates import (
    Clipped,
    Hyper,
    State,
    Update,
    evaluated,
    protocol,
    trained,
)
from optuna_hypergrad.autodiff.updates.protocol import Values, checked_hypers, checked_state
from optuna_hypergrad.autodiff.validation import Statistics, Validated, validate
from optuna_hypergrad.autodiff.weights import FlatWeights, replaced

Initial = Callable[[Mapping[str, Tensor], Values], Mapping[str, Tensor]]
Microbatches = Sequence[Batch]  # whose losses one step takes the mean of
_SELDOM = 32  # steps


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
        constant_buffers: Collection[str] = (),
        state: State | None = None,
    ) -> None:
        self.steps = checked_count("steps", steps)
        protocol.check_update(update)
        check_positive("clip_gradients", clip_gradients, or_none=True)
        check_kind("hypers", hypers, Mapping | None, "a mapping or None")
        self.update = update if clip_gradients is None else Clipped(update, value=clip_gradients)
        own = checked_hypers(hypers or {})
        self.hypers = RunHparams(self.update.hypers, own, learn, self.steps)
        self.weights = FlatWeights(model)
        self.objective = TrainingLoss(
            model, loss_fn, self.weights, self.hypers.learned_by("loss"), hypers is not None
        )
        self._initial = initial
        self._constant_buffers = checked_buffers(model, constant_buffers)
        self._state = self._checked(state)
        self._products, self._way = checked_products(products), HVP_METHODS["loop"]
        self._rows = 0  # at a time, for which a way has been found
        self.of_tensors = False  # whether each training batch is a tensor, as seen at every step

    @property
    def learned(self) -> list[str]:
        """The learned hyperparameters of the loss, P of them."""
        return self.objective.learned

    @property
    def at_once(self) -> bool:
        """Whether all products of a step are taken at once."""
        return self._way.batched

    def at(self, step: int) -> HparamsAtStep:
        """Values of the hyperparameters at ``step``."""
        return self.hypers.at(step, self.weights.parameters[0])

    def begin(self) -> TrainState:
        """What to start from; the model then holds the weights."""
        weights = trained(self.update, self.weights.read(), self._state)
        if self._initial is not None:
            self._given = weights
            weights = self._initialised(self._own())
        self.weights.write(weights)
        return TrainState(weights, self._state)

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
            values = self.at(0)
            self._way = preflight(
                self.objective, self._products, batch, values.loss, rows, self._constant_buffers
            )
            check_update(self.update, self.weights.read(), values.update)

    def check_validation(
        self, batch: Batch, loss_fn: LossFn | None, statistics: Statistics
    ) -> None:
        """Raise a ValueError where the validation loss cannot be differentiated as computed."""
        objective = self.objective.of(loss_fn) if loss_fn is not None else self.objective
        check_validation(objective, batch, self.at(self.steps - 1).loss, statistics)

    def check_weights(self, step: int, point: TrainState, culprit: str) -> None:
        """Raise a ValueError where the model does not hold the weights at ``point``.

        On other devices than the CPU, which a comparison would wait for, not at every step.
        """
        seldom = self.weights.device.type != "cpu" and step < self.steps - 1
        if not seldom or step % _SELDOM == 0:
            self.weights.check_unchanged(point.weights, culprit)

    def state_versions(self) -> dict[str, int]:
        """By name, how often buffers and frozen parameters were changed; not the constant ones."""
        tensors = dict(self.objective.model.named_buffers()) | self.weights.frozen
        return {
            name: tensor._version
            for name, tensor in tensors.items()
            if not is_named(name, self._constant_buffers)
        }

    def slope(self, batches: Microbatches, hypers: Values) -> LossGrad:
        """The mean loss of the batches at the model's weights, and its gradient."""
        self.of_tensors = isinstance(batches[0], Tensor)
        return LossGrad.mean([self.objective.loss_grad(batch, hypers) for batch in batches])

    def curvature(
        self, batches: Microbatches, hypers: Values, along: Directions, kind: Product
    ) -> tuple[LossGrad, Directions]:
        """The slope, and the JVPs or VJPs of its gradient with the rows of ``along``."""
        self.of_tensors = isinstance(batches[0], Tensor)
        found = [self._way(self.objective, batch, hypers, along, kind) for batch in batches]
        slopes, products = zip(*found, strict=True)
        return LossGrad.mean(slopes), Directions.mean(products)

    def moved(self, point: TrainState, slope: LossGrad, hypers: Values) -> TrainState:
        """One step on; the model holds the new weights."""
        reached = self.weights.grad_mask(slope.has_grad)
        new = moved(self.update, point, slope.gradient, hypers, reached)
        self.weights.write(new.weights)
        return new

    def validated(
        self,
        point: TrainState,
        validation: Batch | Iterable[Batch],
        loss_fn: LossFn | None,
        statistics: Statistics,
    ) -> tuple[Validated, TrainState]:
        """The validation loss of the weights at ``point``, and its derivative by w and s there."""
        objective = self.objective.of(loss_fn) if loss_fn is not None else self.objective
        last = self.at(self.steps - 1)
        self.weights.write(evaluated(self.update, *point))
        try:
            found = validate(
                objective,
                validation,
                statistics,
                last.loss,
                of_tensors=self.of_tensors,
                exact=bool(self.hypers.names),
            )
        finally:
            self.weights.write(point.weights)
        return found, self._taken_back(point, found.gradient)

    def finish(self, point: TrainState) -> None:
        """Leave the weights that were validated in the model: averages, where it takes them."""
        self.weights.write(evaluated(self.update, *point))

    def warn_of_unused(self) -> None:
        """Warn of learned hyperparameters that nothing has depended on."""
        unused = [name for name in self.learned if name not in self.objective.used]
        if unused:
            initial = self.initial_slopes()
            unused = [name for name in unused if not (name in initial and initial[name].any())]
        if unused:
            name = self.hypers.learned["loss", unused[0]].name
            warnings.warn(
                f"hypers: neither the loss nor the initial weights depend on {name!r}, so its "
                "hypergradient is 0. Use its value as the tensor that it is: float(), item() and "
                "numpy take it out of torch.",
                stacklevel=2,
            )

    def _checked(self, state: State | None) -> State:
        """The state to start from."""
        if state is None:
            return ()
        return checked_state(self.update, state, self.weights.read(), self.at(0).update)

    def _taken_back(self, point: TrainState, slope: Tensor) -> TrainState:
        """From the derivative by the weights that are validated to that by w and s."""
        weights, *state = (part.detach().requires_grad_() for part in (point.weights, *point.state))
        with torch.enable_grad():
            used = evaluated(self.update, weights, tuple(state))
        found = torch.autograd.grad(
            used, [weights, *state], slope, allow_unused=True, materialize_grads=True
        )
        return TrainState(found[0], found[1:])

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
        return replaced("initial", named, self._initial(named, values))


def checked_buffers(model: nn.Module, names: Collection[str]) -> frozenset[str]:
    """``constant_buffers``, or a ValueError that names what is neither a buffer nor a module."""
    if isinstance(names, str):
        raise ValueError(f"constant_buffers must be a collection of names, got {names!r}.")
    check_kind("constant_buffers", names, Collection, "a collection of names")
    known = {name for name, _ in model.named_buffers()} | {n for n, _ in model.named_modules()}
    unknown = [name for name in names if name not in known]
    if unknown:
        buffers = [name for name, _ in model.named_buffers()]
        raise ValueError(
            f"constant_buffers: {unknown[0]!r} is no buffer of the model ({buffers}), nor a module."
        )
    return frozenset(names)
