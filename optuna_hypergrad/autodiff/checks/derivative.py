"""Whether derivatives are those of what is computed, in the training gradient and the update."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from optuna_hypergrad.autodiff.checks.double import Line, direction_at, doubled, in_double, near
from optuna_hypergrad.autodiff.loss import Batch, TrainingLoss
from optuna_hypergrad.autodiff.relaxations import relaxed
from optuna_hypergrad.autodiff.second_order.hvp import Directions, double_backward
from optuna_hypergrad.autodiff.stop_gradient import StopGradients, Stops, without_hooks
from optuna_hypergrad.autodiff.updates import Update
from optuna_hypergrad.autodiff.updates.protocol import Values
from optuna_hypergrad.logger import get_logger

# Steps of the differences, relative to the weights. Between two points so close hardly a unit of a
# ReLU network switches on or off; where one does, the next step is tried.
_STEPS = (1e-8, 1e-9, 1e-7, 1e-6)
_TOLERANCE = 1e-3  # relative
_CAUSES = (
    "Something that it depends on leaves torch, or is hidden from it: a number (item, float, "
    "numpy), an in-place change of a tensor that another one shares, requires_grad switched within "
    "the loss, inference_mode, a torch.autograd.Function whose forward is not written in torch's "
    "operations or whose apply was stored before (call Function.apply where it is used), a hook of "
    "a module that is not the model's. Keep it in tensors and in operations of torch's."
)
# What the user's code and torch raise where they cannot do with doubles.
_UNFIT = (RuntimeError, TypeError, ValueError, AssertionError, LookupError, AttributeError)


def check_products(objective: TrainingLoss, batch: Batch, hypers: Values) -> None:
    """Raise a ValueError where the training gradient's derivative differs from differences.

    Both are taken in double precision, near the weights, along a direction of weights and learned
    hyperparameters; the model is as before afterwards.
    """
    if (error := _in_double(objective, batch, hypers, _products_error)) > _TOLERANCE:
        unused = [name for name in objective.learned if name not in objective.used]
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


def check_loss(objective: TrainingLoss, batch: Batch, hypers: Values) -> None:
    """Raise a ValueError where the validation loss's derivative differs from differences.

    Args:
        objective: The validation loss; its model in the mode that it is validated in.
        batch: A batch.
        hypers: Values of the hyperparameters of the loss.
    """
    if (error := _in_double(objective, batch, hypers, _loss_error)) > _TOLERANCE:
        raise ValueError(
            "validation_loss_fn, loss_fn or model: the derivative of the loss in evaluation mode "
            f"differs from central differences of it by {error:.1%} on the first training batch, "
            f"so hypergradients would be wrong. {_CAUSES}"
        )


def _in_double(
    objective: TrainingLoss,
    batch: Batch,
    hypers: Values,
    error: Callable[[TrainingLoss, Batch, Values], float],
) -> float:
    """An error in double precision; 0.0, which is logged, where the loss does not run in it."""
    try:
        with in_double(objective.model), relaxed():
            values = {name: doubled(value) for name, value in hypers.items()}
            return error(objective, doubled(batch), values)
    except _UNFIT as reason:
        get_logger().info(
            "Derivatives were not compared with differences: the loss does not run in double "
            f"precision ({type(reason).__name__}: {reason})."
        )
        return 0.0


def _products_error(objective: TrainingLoss, batch: Batch, hypers: Values) -> float:
    """Of the JVP, and of the VJP where one product serves for both."""
    line = Line(objective, hypers)
    slope, product, symmetric = double_backward(objective, batch, line.go(0.0), "jvp")
    line.turn(slope.gradient)
    found = product(Directions(line.direction[None], line.of_hypers[None]), not symmetric).weights[
        0
    ]
    floor = 1e-5 * float(slope.gradient.norm())  # what rounding makes of the differences
    adjoint = direction_at(line.direction, seed=2)
    back = product(Directions(adjoint[None], 0 * line.of_hypers[None]), True) if symmetric else None
    errors = []
    for step in _STEPS:
        ahead, behind = (objective.slope(batch, line.go(s)).gradient for s in (step, -step))
        difference = (ahead - behind) / (2 * step)
        errors.append(_relative(float((difference - found).norm()), difference, found, floor))
        if back is not None:  # a·(Jz) = (Jᵀa)·z
            taken_back = back.weights[0] @ line.direction + back.hypers[0] @ line.of_hypers
            gap = float((adjoint @ difference - taken_back).abs() / adjoint.norm())
            errors[-1] = max(errors[-1], _relative(gap, difference, found, floor))
        if not errors[-1] > _TOLERANCE:  # also where it is NaN: the training has diverged already
            return 0.0
    return min(errors)


def _loss_error(objective: TrainingLoss, batch: Batch, hypers: Values) -> float:
    """Of the derivative of the loss along a line."""
    line, parameters = Line(objective, hypers), objective.weights.parameters
    with without_hooks(parameters):
        graph = objective.graph(batch, line.go(0.0), twice=False, stops=Stops(active=False))
    slope, gradients, _ = graph
    line.turn(slope.gradient)
    pairs = zip(gradients[len(parameters) :], line.of_hypers, strict=True)
    direct = sum(float(g * change) for g, change in pairs if g is not None)
    found = slope.gradient @ line.direction + direct
    floor = 1e-5 * float(slope.gradient.norm() * line.direction.norm())
    return _slope_error(lambda step: objective(batch, line.go(step)), found, floor)


def _slope_error(at: Callable[[float], Tensor], found: Tensor, floor: float = 0.0) -> float:
    """Of the derivative ``found`` of a number along a line, the smallest over several steps."""
    errors = []
    for step in _STEPS[::-1]:
        ahead, behind = (at(s).detach() for s in (step, -step))
        difference = (ahead - behind) / (2 * step)
        rounding = 1e-14 * float(ahead.abs()) / step
        gap = float((difference - found).abs())
        errors.append(_relative(gap, difference, found, floor + rounding))
        if not errors[-1] > _TOLERANCE:
            return 0.0
    return min(errors)


def _relative(gap: float, first: Tensor, second: Tensor, floor: float) -> float:
    """A difference beyond what rounding makes, relative to the larger of two."""
    return max(gap - floor, 0.0) / max(float(first.norm()), float(second.norm()), floor, 1e-300)


def check_update_map(update: Update, weights: Tensor, hypers: Values) -> None:
    """Raise a ValueError where an update's derivative differs from differences of two of its steps.

    And warn where it ignores what is learned.

    Args:
        update: The update.
        weights: Weights to take the steps from, shape (D,).
        hypers: Values of its hyperparameters; tensors are learned.
    """
    values = {name: value.double() for name, value in hypers.items() if torch.is_tensor(value)}
    if not values:
        return
    learned = list(values)
    kind, point = type(update).__name__, near(weights.detach().double())
    middle = [point, direction_at(point, seed=2), *values.values()]
    change = [direction_at(point), direction_at(point, seed=3), *middle[2:]]
    stops, leaves = Stops(), [part.detach().clone().requires_grad_() for part in middle]
    with torch.enable_grad(), StopGradients(stops):
        total = _two_steps(update, hypers, learned, leaves)
    if stops.found or not total.requires_grad:
        raise ValueError(
            f"update: {kind} stops gradients (detach, no_grad), but the weights that it gives "
            "depend on all that it computes. Take detach and no_grad out of it."
        )
    slopes = torch.autograd.grad(total, leaves, allow_unused=True)
    stops.forget()
    unused = [name for name, slope in zip(learned, slopes[2:], strict=True) if slope is None]
    pairs = zip(change, slopes, strict=True)
    found = sum(((c * s).sum() for c, s in pairs if s is not None), torch.zeros_like(total))

    def at(step: float) -> Tensor:
        parts = [m + step * c for m, c in zip(middle, change, strict=True)]
        return _two_steps(update, hypers, learned, parts)

    error = _slope_error(at, found.detach())
    told = (
        f"depend on its learned hyperparameter {unused[0]!r} as a tensor, so that its "
        "hypergradient is 0. Use the tensor that it gets: float() and item() take it out of torch."
        if unused
        else ""
    )
    if error > _TOLERANCE and unused:
        raise ValueError(f"update: {kind} does not {told}")
    if error > _TOLERANCE:
        raise ValueError(
            f"update: the derivative of a step of {kind} differs from central differences of it by "
            f"{error:.1%}. {_CAUSES}"
        )
    if unused:
        warnings.warn(f"update: {kind} does not {told}", stacklevel=2)


def _two_steps(update: Update, hypers: Values, learned: list[str], parts: list[Tensor]) -> Tensor:
    """Weights and state after two steps, as one number."""
    weights, gradient, *values = parts
    hypers = {**hypers, **dict(zip(learned, values, strict=True))}
    one, state = update(weights, (), gradient, hypers)
    two, state = update(one, state, 0.5 * gradient, hypers)
    mix = direction_at(two.new_ones(len(two)), seed=4)
    mixed = (part * mix if part.dim() else part for part in state)
    return two @ mix + sum(part.sum() for part in mixed)
