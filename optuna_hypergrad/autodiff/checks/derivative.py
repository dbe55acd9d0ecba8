"""Whether derivatives are those of what is computed, in the training gradient and the update."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from optuna_hypergrad.autodiff.checks.double import Line, direction_at, doubled, in_double, near
from optuna_hypergrad.autodiff.data import Batch
from optuna_hypergrad.autodiff.loss import TrainingLoss
from optuna_hypergrad.autodiff.relaxations import relaxed
from optuna_hypergrad.autodiff.second_order.hvp import Directions, double_backward
from optuna_hypergrad.autodiff.stop_gradient import StopGradients, StopState
from optuna_hypergrad.autodiff.updates import Update
from optuna_hypergrad.autodiff.updates.protocol import Values
from optuna_hypergrad.logger import logger

# Steps of the differences, relative to the weights. Between two points so close hardly a unit of a
# ReLU network switches on or off; where one does, the next step is tried.
_STEPS = (1e-8, 1e-9, 1e-7, 1e-6)
_POINTS = (1, 5, 6)  # seeds of the points at which derivatives are compared
_TOLERANCE = 1e-3  # relative
_CAUSES = (
    "Something that it depends on leaves torch, or is hidden from it: a number (item, float, "
    "numpy), an in-place change of a tensor that another one shares, requires_grad switched within "
    "the loss, inference_mode, a torch.autograd.Function whose forward is not written in torch's "
    "operations or whose apply was stored before (call Function.apply where it is used), a hook of "
    "a module that is not the model's. Keep it in tensors and in operations of torch's."
)
# What the user's code and torch raise where they cannot cope with doubles.
_UNFIT = (RuntimeError, TypeError, ValueError, AssertionError, LookupError, AttributeError)


def check_products(loss: TrainingLoss, batch: Batch, hparams: Values) -> None:
    """Raise a ValueError where the training gradient's derivative differs from differences.

    Both are taken in double precision, near the weights, along a direction of weights and learned
    hyperparameters; the model is as before afterwards.
    """
    if (error := _in_double(loss, batch, hparams, _products_error)) > _TOLERANCE:
        unused = [name for name in loss.learned if name not in loss.used]
        if unused:
            raise ValueError(
                f"hypers: the loss follows its learned value {unused[0]!r}, but not as a tensor, "
                "so that its hypergradient would be 0. float(), item() and numpy take it out of "
                "torch."
            )
        raise ValueError(
            "loss_fn or model: the derivative of the training gradient differs from central "
            f"differences of it by {error:.1%} on the first batch, so hypergradients would be "
            f"wrong. {_CAUSES}"
        )


def check_loss(loss: TrainingLoss, batch: Batch, hparams: Values) -> None:
    """Raise a ValueError where the validation loss's derivative differs from differences.

    Args:
        loss: The validation loss; its model in the mode that it is validated in.
        batch: A batch.
        hparams: Values of the hyperparameters of the loss.
    """
    if (error := _in_double(loss, batch, hparams, _loss_error)) > _TOLERANCE:
        raise ValueError(
            "validation_loss_fn, loss_fn or model: the derivative of the loss in evaluation mode "
            f"differs from central differences of it by {error:.1%} on the first training batch, "
            f"so hypergradients would be wrong. {_CAUSES}"
        )


def _in_double(
    loss: TrainingLoss,
    batch: Batch,
    hparams: Values,
    error: Callable[[TrainingLoss, Batch, Values, int], float],
) -> float:
    """An error in double precision; 0.0, which is logged, where the loss does not run in it.

    One point in some hundred lies so near a kink (of ReLU, of max-pooling) that differences are
    wrong there, so an error counts if it is one at several points.
    """
    try:
        with in_double(loss.model), relaxed():
            values = {name: doubled(value) for name, value in hparams.items()}
            for seed in _POINTS:
                found = error(loss, doubled(batch), values, seed)
                if not found > _TOLERANCE:
                    break
            return found
    except _UNFIT as reason:
        logger.info(
            "Derivatives were not compared with differences: the loss does not run in double "
            f"precision ({type(reason).__name__}: {reason})."
        )
        return 0.0


def _products_error(loss: TrainingLoss, batch: Batch, hparams: Values, seed: int) -> float:
    """Of the JVP, and of the VJP where one product serves for both."""
    line = Line(loss, hparams, seed)
    loss_grad, product, symmetric = double_backward(loss, batch, line.go(0.0), "jvp")
    line.add_gradient(loss_grad.gradient)
    direction = Directions(line.direction[None], line.of_hparams[None])
    found = product(direction, not symmetric).weights[0]
    floor = 1e-5 * float(loss_grad.gradient.norm())  # what rounding makes of the differences
    adjoint = direction_at(line.direction, seed=2)
    back = product(Directions(adjoint[None], 0 * direction.hparams), True) if symmetric else None
    errors = []
    for step in _STEPS:
        up, down = (loss.loss_grad(batch, line.go(s)).gradient for s in (step, -step))
        difference = (up - down) / (2 * step)
        errors.append(_relative(float((difference - found).norm()), difference, found, floor))
        if back is not None:  # a·(Jz) = (Jᵀa)·z
            by_vjp = back.weights[0] @ line.direction + back.hparams[0] @ line.of_hparams
            gap = float((adjoint @ difference - by_vjp).abs() / adjoint.norm())
            errors[-1] = max(errors[-1], _relative(gap, difference, found, floor))
        if not errors[-1] > _TOLERANCE:  # also where it is NaN: the training has diverged already
            return 0.0
    return min(errors)


def _loss_error(loss: TrainingLoss, batch: Batch, hparams: Values, seed: int) -> float:
    """Of the derivative of the loss along a line."""
    line, n = Line(loss, hparams, seed), len(loss.weights.parameters)
    stops = StopState(active=False)
    loss_grad, gradients, _ = loss.gradients(batch, line.go(0.0), twice=False, stops=stops)
    line.add_gradient(loss_grad.gradient)
    pairs = zip(gradients[n:], loss.split(line.of_hparams), strict=True)
    direct = sum(float((g * change).sum()) for g, change in pairs if g is not None)
    found = loss_grad.gradient @ line.direction + direct
    floor = 1e-5 * float(loss_grad.gradient.norm() * line.direction.norm())
    return _derivative_error(lambda step: loss(batch, line.go(step)), found, floor)


def _derivative_error(at: Callable[[float], Tensor], found: Tensor, floor: float = 0.0) -> float:
    """Of the derivative ``found`` of a number along a line, the smallest over several steps."""
    errors = []
    for step in _STEPS[::-1]:
        up, down = (at(s).detach() for s in (step, -step))
        difference = (up - down) / (2 * step)
        rounding = 1e-14 * float(up.abs()) / step
        gap = float((difference - found).abs())
        errors.append(_relative(gap, difference, found, floor + rounding))
        if not errors[-1] > _TOLERANCE:
            return 0.0
    return min(errors)


def _relative(gap: float, first: Tensor, second: Tensor, floor: float) -> float:
    """A difference beyond what rounding makes, relative to the larger of two."""
    return max(gap - floor, 0.0) / max(float(first.norm()), float(second.norm()), floor, 1e-300)


def check_update_map(update: Update, weights: Tensor, hparams: Values) -> bool:
    """Raise a ValueError where an update's derivative differs from differences of two of its steps.

    Args:
        update: The update.
        weights: Weights to take the steps from, shape (D,).
        hparams: Values of its hyperparameters; tensors are learned.

    Returns:
        Whether it uses all that is learned; else it has warned of what it ignores.
    """
    values = {name: value.double() for name, value in hparams.items() if torch.is_tensor(value)}
    if not values:
        return True
    learned = list(values)
    kind, point = type(update).__name__, near(weights.detach().double())
    middle = [point, direction_at(point, seed=2), *values.values()]
    change = [direction_at(point), direction_at(point, seed=3), *middle[2:]]
    stops, leaves = StopState(), [part.detach().clone().requires_grad_() for part in middle]
    with torch.enable_grad(), StopGradients(stops):
        total = _two_steps(update, hparams, learned, leaves)
    if stops.found or not total.requires_grad:
        raise ValueError(
            f"update: {kind} stops gradients (detach, no_grad), but the weights that it gives "
            "depend on all that it computes. Take detach and no_grad out of it."
        )
    gradients = torch.autograd.grad(total, leaves, allow_unused=True)
    unused = [name for name, g in zip(learned, gradients[2:], strict=True) if g is None]
    pairs = zip(change, gradients, strict=True)
    found = sum(((c * g).sum() for c, g in pairs if g is not None), torch.zeros_like(total))

    def at(step: float) -> Tensor:
        parts = [m + step * c for m, c in zip(middle, change, strict=True)]
        return _two_steps(update, hparams, learned, parts)

    error = _derivative_error(at, found.detach())
    if error > _TOLERANCE and not unused:
        raise ValueError(
            f"update: the derivative of a step of {kind} differs from central differences of it by "
            f"{error:.1%}. {_CAUSES}"
        )
    if not unused:
        return True
    message = (
        f"update: {kind} does not depend on its learned hyperparameter {unused[0]!r} as a tensor, "
        "so that its hypergradient is 0. Use the tensor that it gets: float() and item() take it "
        "out of torch."
    )
    if error > _TOLERANCE:
        raise ValueError(message)
    warnings.warn(message, stacklevel=2)
    return False


def _two_steps(update: Update, hparams: Values, learned: list[str], parts: list[Tensor]) -> Tensor:
    """Weights and state after two steps, as one number."""
    weights, gradient, *values = parts
    hparams = {**hparams, **dict(zip(learned, values, strict=True))}
    one, state = update(weights, (), gradient, hparams)
    two, state = update(one, state, 0.5 * gradient, hparams)
    mix = direction_at(two.new_ones(len(two)), seed=4)
    mixed = (part * mix if part.dim() else part for part in state)
    return two @ mix + sum(part.sum() for part in mixed)
