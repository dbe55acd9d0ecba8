"""Whether derivatives are those of what is computed, in the training gradient and the update."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from optuna_hypergrad.autodiff.checks.directions import direction_at
from optuna_hypergrad.autodiff.checks.double import doubled, in_double
from optuna_hypergrad.autodiff.objective import Batch, Objective
from optuna_hypergrad.autodiff.products import Along, double_backward
from optuna_hypergrad.autodiff.replay.surroundings import Surrounding
from optuna_hypergrad.autodiff.stop_gradient import StopGradients, Stops
from optuna_hypergrad.autodiff.updates import Update
from optuna_hypergrad.autodiff.updates.protocol import Values
from optuna_hypergrad.logger import get_logger

# Steps of the differences, relative to the weights. Between two points so close hardly a unit of a
# ReLU network switches on or off; where one does, the next step is tried.
_STEPS = (1e-8, 1e-9, 1e-7, 1e-6)
_TOLERANCE = 1e-3  # relative
# What the user's code and torch raise where they cannot do with doubles.
_UNFIT = (RuntimeError, TypeError, ValueError, AssertionError, NotImplementedError)


def check_products(objective: Objective, batch: Batch, hypers: Values) -> None:
    """Raise a ValueError where the training gradient's derivative differs from differences.

    Both are taken in double precision along a random direction; the model is as before afterwards.
    A loss that does not run in double precision is not checked, which is logged.
    """
    try:
        with in_double(objective.model):
            values = {name: doubled(value) for name, value in hypers.items()}
            error = _error(objective, doubled(batch), values)
    except _UNFIT as reason:
        get_logger().info(
            "The derivative of the training gradient was not compared with differences: the loss "
            f"does not run in double precision ({type(reason).__name__}: {reason})."
        )
        return
    if error > _TOLERANCE:
        raise ValueError(
            "loss_fn or model: the derivative of the training gradient differs from central "
            f"differences of it by {error:.1%} on the first batch, so hypergradients would be "
            "wrong. Something that the gradient depends on leaves torch, or is hidden from it: a "
            "number (item, float, numpy), an in-place change of a tensor that another one shares, "
            "a torch.autograd.Function whose forward is not written in torch's operations or whose "
            "apply was stored before (call Function.apply where it is used), a hook of a module "
            "that is not the model's. Keep it in tensors and in operations of torch's."
        )


def check_update_map(update: Update, weights: Tensor, hypers: Values) -> None:
    """Raise a ValueError where an update stops gradients; warn where it ignores what is learned.

    Args:
        update: The update, of which two steps are taken.
        weights: Weights to take them from, shape (D,).
        hypers: Values of its hyperparameters; tensors are learned.
    """
    learned = {k: v.detach().requires_grad_() for k, v in hypers.items() if torch.is_tensor(v)}
    if not learned:
        return
    stops, point = Stops(), weights.detach().requires_grad_()
    values = {**hypers, **learned}
    with torch.enable_grad(), StopGradients(stops):
        one, state = update(point, (), 0.5 * point, values)
        two, state = update(one, state, 0.5 * one, values)
        total = sum((part.sum() for part in state), two.sum())
    if stops.found or not two.requires_grad:
        raise ValueError(
            f"update: {type(update).__name__} stops gradients (detach, no_grad), but the weights "
            "that it gives depend on all that it computes. Take detach and no_grad out of it."
        )
    slopes = torch.autograd.grad(total, list(learned.values()), allow_unused=True)
    unused = [name for name, slope in zip(learned, slopes, strict=True) if slope is None]
    if unused:
        warnings.warn(
            f"update: {type(update).__name__} does not depend on its learned hyperparameter "
            f"{unused[0]!r}, whose hypergradient is 0. Use the tensor that it gets: float() and "
            "item() take it out of torch.",
            stacklevel=2,
        )


def _error(objective: Objective, batch: Batch, hypers: Values) -> float:
    """The smallest relative difference, over several steps, of a JVP and central differences."""
    weights = objective.weights
    surrounding = Surrounding(objective.model, weights.device, ())
    start, point = surrounding.now(), weights.read()
    none = point.new_zeros((1, len(objective.learned)))

    def restored(at: Tensor) -> None:
        surrounding.restore(start)
        weights.write(at)

    def gradient(at: Tensor) -> Tensor:
        restored(at)
        return objective.slope(batch, hypers).gradient

    restored(point)
    slope, product, _ = double_backward(objective, batch, hypers, "jvp")
    direction = direction_at(point, slope.gradient)
    found = product(Along(direction[None], none), True).weights[0]
    floor = 1e-5 * float(slope.gradient.norm())  # what rounding makes of the differences
    errors = []
    for step in _STEPS:
        ahead, behind = gradient(point + step * direction), gradient(point - step * direction)
        difference = (ahead - behind) / (2 * step)
        scale = max(float(difference.norm()), float(found.norm()), floor, 1e-300)
        errors.append(max(float((difference - found).norm()) - floor, 0.0) / scale)
        if not errors[-1] > _TOLERANCE:  # also where it is NaN: the training has diverged already
            return 0.0
    return min(errors)
