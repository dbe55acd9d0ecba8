"""One training run: its model, loss, update and hyperparameters, a step at a time."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, get_args

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from optuna_hypergrad.arguments import check_choice, check_kind, check_positive, checked_count
from optuna_hypergrad.autodiff.checks.double import direction_at
from optuna_hypergrad.autodiff.checks.state import is_named
from optuna_hypergrad.autodiff.data import Batch
from optuna_hypergrad.autodiff.hparams import RunHparams
from optuna_hypergrad.autodiff.initial import Initial, InitialWeights
from optuna_hypergrad.autodiff.loss import (
    LossFn,
    LossGrad,
    Statistics,
    TrainingLoss,
    Validated,
    validate,
)
from optuna_hypergrad.autodiff.second_order import preflight
from optuna_hypergrad.autodiff.second_order.hvp import (
    HVP_METHODS,
    Directions,
    Product,
    Products,
)
from optuna_hypergrad.autodiff.step import TrainState, apply_update
from optuna_hypergrad.autodiff.updates import (
    Clipped,
    Hparam,
    State,
    Update,
    Values,
    evaluated,
    protocol,
    trained,
)
from optuna_hypergrad.autodiff.weights import FlatWeights, HasGrad

Microbatches = Sequence[Batch]  # of one step, which takes their mean loss
_SELDOM = 32  # steps


class Run:
    """A model that is trained in place, with its loss, update and hyperparameters.

    The arguments are those of ``ForwardMode``. The model always holds the current weights.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFn,
        update: Update,
        *,
        steps: int,
        hypers: Mapping[str, Hparam | Tensor | NDArray[Any]] | None = None,
        initial: Initial | None = None,
        learn: Collection[str] | bool | None = None,
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
        of_loss = protocol.checked_of_loss(hypers or {})
        self.weights = FlatWeights(model)
        like = self.weights.parameters[0]  # of the dtype and device of all weights
        self.hypers = RunHparams(self.update.hypers, of_loss, learn, self.steps, like)
        self.learned = self.hypers.learned_of_loss()  # with P elements
        self.loss = TrainingLoss(model, loss_fn, self.weights, self.learned, hypers is not None)
        self.initial = InitialWeights(initial, self.loss, self.hypers)
        self._constant_buffers = _checked_buffers(model, constant_buffers)
        self.initial_state: State = ()
        if state is not None:
            values = self.hypers.at(0).update
            self.initial_state = protocol.checked_state(
                self.update, state, self.weights.read(), values
            )
        check_choice("products", products, get_args(Products))
        self._products, self._method = products, HVP_METHODS["loop"]
        self._max_rows = 0
        self._is_prepared = False
        self._of_tensors = False  # whether each training batch is a tensor

    @property
    def model(self) -> nn.Module:
        """The model."""
        return self.loss.model

    def expect(self, max_rows: int) -> None:
        """Set the number of Hessian products that a step takes at most; 0 for none."""
        self._max_rows = max_rows

    def check(self, batch: Batch, loss_fn: LossFn | None, statistics: Statistics) -> None:
        """Check the run and its validation on the first batch, before the training.

        Raises:
            ValueError: If the training or the validation loss cannot be differentiated as computed.
        """
        self._prepare(batch)
        loss = self.loss if loss_fn is None else self.loss.of(loss_fn)
        preflight.check_validation(loss, batch, self.hypers.at(self.steps - 1).loss, statistics)

    def begin(self) -> TrainState:
        """Give the model its initial weights; returns them with the initial state."""
        weights = self.initial.of(trained(self.update, self.weights.read(), self.initial_state))
        self.weights.write(weights)
        return TrainState(weights, self.initial_state)

    def gradient(self, batches: Microbatches, hypers: Values) -> LossGrad:
        """Mean loss of the batches at the model's weights, and its gradient."""
        self._see(batches)
        grads = [self.loss.loss_grad(batch, hypers) for batch in batches]
        return grads[0] if len(grads) == 1 else LossGrad.mean(grads)

    def gradient_and_products(
        self, batches: Microbatches, hypers: Values, directions: Directions, kind: Product
    ) -> tuple[LossGrad, Directions]:
        """The same, and the JVPs or VJPs of the gradient along each of the directions."""
        self._see(batches)
        found = [self._method(self.loss, batch, hypers, directions, kind) for batch in batches]
        if len(found) == 1:
            return found[0]
        grads, products = zip(*found, strict=True)
        return LossGrad.mean(grads), Directions.mean(products)

    def step(self, step: int, point: TrainState, grad: LossGrad, hypers: Values) -> TrainState:
        """Take one step; the model holds the new weights."""
        self.check_weights(step, point, "loss_fn")
        new = self.updated(point, grad.gradient, grad.has_grad, hypers)
        self.weights.write(new.weights)
        return new

    def updated(
        self, point: TrainState, gradient: Tensor, has_grad: HasGrad, hypers: Values
    ) -> TrainState:
        """The point after one step, without the model."""
        mask = self.weights.grad_mask(has_grad)
        return apply_update(self.update, point, gradient, hypers, mask)

    def validate(
        self,
        point: TrainState,
        validation: Batch | Iterable[Batch],
        loss_fn: LossFn | None,
        statistics: Statistics,
    ) -> tuple[Validated, TrainState]:
        """Validation loss of the weights at ``point``, and its derivative by w and s."""
        loss = self.loss if loss_fn is None else self.loss.of(loss_fn)
        self.finish(point)
        try:
            validated = validate(
                loss,
                validation,
                statistics,
                self.hypers.at(self.steps - 1).loss,
                of_tensors=self._of_tensors,
                differentiate=self.hypers.is_learning,
            )
        finally:
            self.weights.write(point.weights)
        weights, *state = (part.detach().requires_grad_() for part in point.tensors)
        with torch.enable_grad():
            used = evaluated(self.update, weights, tuple(state))
        by_weights, *by_state = torch.autograd.grad(
            used,
            [weights, *state],
            validated.gradient,
            allow_unused=True,
            materialize_grads=True,
        )
        self._warn_of_unused()
        return validated, TrainState(by_weights, tuple(by_state))

    def finish(self, point: TrainState) -> None:
        """Give the model the weights to validate: averages, for an update that has them."""
        self.weights.write(evaluated(self.update, *point))

    def check_weights(self, step: int, point: TrainState, culprit: str) -> None:
        """Raise a ValueError if the model does not hold the weights at ``point``.

        Not at every step on devices other than the CPU, which a comparison would wait for.
        """
        seldom = self.weights.device.type != "cpu" and step < self.steps - 1
        if not seldom or step % _SELDOM == 0:
            self.weights.check_unchanged(point.weights, culprit)

    def check_unchanged(
        self, step: int, point: TrainState, before: dict[tuple[str, str], object]
    ) -> None:
        """Raise a ValueError if ``on_step`` changed the model or the update.

        Args:
            step: The step.
            point: The weights that the model held before.
            before: ``versions()`` then.
        """
        self.check_weights(step, point, "on_step")
        self.weights.check_trainable()
        changed = [key for key, now in self.versions().items() if before.get(key, now) != now]
        if changed:
            owner, name = changed[0]
            raise ValueError(
                f"on_step: it changed {name!r} of the {owner}, which later steps may depend on and "
                "hypergradients do not see. Change a buffer in loss_fn, or name it in "
                "constant_buffers; let a number of the update be one of its hypers, as a Schedule."
            )

    def versions(self) -> dict[tuple[str, str], object]:
        """What shows that something besides the weights has changed, by owner and name.

        Versions of buffers and frozen parameters, without the constant buffers, and numbers that
        are attributes of the update.
        """
        tensors = dict(self.loss.model.named_buffers()) | self.weights.frozen
        found: dict[tuple[str, str], object] = {
            ("model", name): tensor._version
            for name, tensor in tensors.items()
            if not is_named(name, self._constant_buffers)
        }
        numbers = protocol.numbers(self.update)
        return found | {("update", name): value for name, value in numbers.items()}

    def _see(self, batches: Microbatches) -> None:
        self._of_tensors = isinstance(batches[0], Tensor)
        self._prepare(batches[0])

    def _prepare(self, batch: Batch) -> None:
        """Choose on the first batch how to take Hessian products, and check the update."""
        if self._is_prepared or self._max_rows == 0:
            return
        self._is_prepared = True
        values = self.hypers.at(0)
        self._method = preflight.preflight(
            self.loss, self._products, batch, values.loss, self._max_rows, self._constant_buffers
        )
        preflight.check_update(self.update, self.weights.read(), values.update)

    def _warn_of_unused(self) -> None:
        """Warn of learned hyperparameters that nothing depends on."""
        unused = [name for name in self.learned if name not in self.loss.used]
        if unused:
            initial = self.initial.vjp(direction_at(self.weights.read()))
            unused = [name for name in unused if not (name in initial and initial[name].any())]
        if unused:
            schedule = self.hypers.learned.get(("loss", unused[0]))
            name = unused[0] if schedule is None else schedule.name
            warnings.warn(
                f"hypers: neither the loss nor the initial weights depend on {name!r}, so its "
                "hypergradient is 0. Use its value as the tensor that it is: float(), item() and "
                "numpy take it out of torch.",
                stacklevel=2,
            )


def _checked_buffers(model: nn.Module, names: Collection[str]) -> frozenset[str]:
    """``constant_buffers``, or a ValueError for what is neither a buffer nor a module."""
    if isinstance(names, str):
        raise ValueError(f"constant_buffers must be a collection of names, got {names!r}.")
    check_kind("constant_buffers", names, Collection, "a collection of names")
    buffers = [name for name, _ in model.named_buffers()]
    known = {*buffers, *(name for name, _ in model.named_modules())}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(
            f"constant_buffers: {unknown[0]!r} is no buffer of the model ({buffers}), nor a module."
        )
    return frozenset(names)
