"""Whether a training is what hypergradients take it for, found out on the first batch.

The training gradient must be a function of the weights, the batch, the model's buffers and modes,
and the random number generators; buffers that shape it must not depend on the weights; its
derivative must agree with differences in double precision.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from optuna_hypergrad.autodiff.buffers import Buffer, buffers_of, put_back
from optuna_hypergrad.autodiff.objective import Batch, Objective
from optuna_hypergrad.autodiff.products import Along, double_backward
from optuna_hypergrad.autodiff.replay.surroundings import Surrounding
from optuna_hypergrad.autodiff.stop_gradient import StopGradients, Stops
from optuna_hypergrad.autodiff.updates import Update
from optuna_hypergrad.autodiff.updates.protocol import Values
from optuna_hypergrad.logger import get_logger

_MOVE = 0.3  # relative to the weights: how far these are moved to see what follows them
# Steps of the differences, relative to the weights. Between two points so close hardly a unit of a
# ReLU network switches on or off; where one does, the next step is tried.
_STEPS = (1e-8, 1e-9, 1e-7, 1e-6)
_TOLERANCE = 1e-3  # relative

Running = nn.modules.batchnorm._NormBase  # whose running statistics count as constants


def check_state(
    objective: Objective, batch: Batch, hypers: Values, constant: Collection[str]
) -> None:
    """Raise a ValueError where later gradients depend on weights that are no longer there.

    Gradients are taken at the weights, at others and at the first again, from equal buffers and
    generators. The weights are as before afterwards; buffers and generators are not.

    Args:
        objective: The loss.
        batch: The batch.
        hypers: Values of the hyperparameters of the loss.
        constant: Buffers, or modules by their paths, whose dependence on the weights is left out.
    """
    weights, model = objective.weights, objective.model
    surrounding = Surrounding(model, weights.device, ())
    start, point = surrounding.now(), weights.read()
    frozen = {name: p._version for name, p in model.named_parameters() if not p.requires_grad}

    def gradient(at: Tensor, buffers: tuple[Buffer, ...] = start.buffers) -> Tensor:
        surrounding.restore(start)
        put_back(buffers)
        weights.write(at)
        found = objective.slope(batch, hypers).gradient
        weights.check_unchanged(at, "loss_fn")
        return found

    first, after = gradient(point), buffers_of(model)
    _, after_moved = gradient(point + _MOVE * _direction(point)), buffers_of(model)
    if _differ(first, gradient(point)):
        raise ValueError(_HIDDEN.format(_changed_frozen(model, frozen)))
    names = [
        name
        for name, module in _changed(model, after, after_moved).items()
        if not isinstance(module, Running) and not is_named(name, constant)
    ]
    if names and _differ(gradient(point, after), gradient(point, after_moved)):
        raise ValueError(_CARRIED.format(", ".join(map(repr, names)), names))


def check_products(objective: Objective, batch: Batch, hypers: Values) -> None:
    """Raise a ValueError where the training gradient's derivative differs from differences.

    Both are taken in double precision along a random direction; the model is as before afterwards.
    A loss that does not run in double precision is not checked, which is logged.
    """
    try:
        with _in_double(objective.model):
            values = {name: _double(value) for name, value in hypers.items()}
            error = _error(objective, _double(batch), values)
    except Exception as reason:  # whatever the user's code raises where it gets doubles
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


def check_differentiable(update: Update, weights: Tensor, hypers: Values) -> None:
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
    direction = _direction(point, slope.gradient)
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


@contextmanager
def _in_double(model: nn.Module) -> Iterator[None]:
    """Parameters and buffers in double precision for the time being; they stay the same objects."""
    parameters = [(p, p.data) for p in model.parameters() if p.is_floating_point()]
    buffers = [
        (module, name, tensor)
        for module in model.modules()
        for name, tensor in module._buffers.items()
    ]
    modes = [(module, module.training) for module in model.modules()]
    generators = Surrounding(model, next(model.parameters()).device, ()).now().randomness
    try:
        for parameter, values in parameters:
            parameter.data = values.double()
        for module, name, tensor in buffers:
            if tensor is not None:
                module._buffers[name] = _double(tensor.clone())
        yield
    finally:
        for parameter, values in parameters:
            parameter.data = values
        for module, name, tensor in buffers:
            module._buffers[name] = tensor
        for module, mode in modes:
            module.training = mode
        generators.restore()
        torch.clear_autocast_cache()


def _double(tree: Any) -> Any:
    """With all floating tensors in double precision."""

    def one(leaf: Any) -> Any:
        return leaf.double() if torch.is_tensor(leaf) and leaf.is_floating_point() else leaf

    return tree_map(one, tree)


def _direction(point: Tensor, gradient: Tensor | None = None) -> Tensor:
    """A random direction, the same each time, as long as the weights are.

    With a part along the gradient: where a factor of the loss counts as constant, that is where
    the derivative lacks most.
    """
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(len(point), generator=generator, dtype=point.dtype).to(point.device)
    direction = direction / direction.norm()
    if gradient is not None and gradient.isfinite().all() and gradient.any():
        direction = direction + 0.5 * gradient / gradient.norm()  # cancels nothing, even in 1-D
    scaled: Tensor = direction * point.norm().clamp_min(1e-3)
    return scaled


def _differ(first: Tensor, second: Tensor) -> bool:
    """Whether two gradients differ by more than rounding; False where one is NaN."""
    eps = torch.finfo(first.dtype).eps
    tolerance = 30 * eps if first.device.type == "cpu" else eps**0.5  # atomics on other devices
    return bool((first - second).norm() > tolerance * first.norm())


def _changed(
    model: nn.Module, first: tuple[Buffer, ...], second: tuple[Buffer, ...]
) -> dict[str, nn.Module]:
    """Buffers that came out differently, by path, each with its module."""
    paths = {id(module): path for path, module in model.named_modules()}
    pairs = zip(first, second, strict=True)
    changed = [a for a, b in pairs if not a.same_values_as(b)]
    return {f"{paths[id(b.module)]}.{b.name}".lstrip("."): b.module for b in changed}


def _changed_frozen(model: nn.Module, versions: dict[str, int]) -> str:
    """What to say of parameters that are not learned and were changed all the same."""
    parameters = dict(model.named_parameters())
    changed = [name for name, version in versions.items() if parameters[name]._version != version]
    return f" loss_fn changes {changed[0]!r}, a parameter that is not learned." if changed else ""


def is_named(name: str, chosen: Collection[str]) -> bool:
    """Whether a buffer, or a module that it is in, is among ``chosen``."""
    return any(name == path or name.startswith(f"{path}.") for path in chosen)


_HIDDEN = (
    "loss_fn or model: its gradient differs between two calls at the same weights, batch, buffers, "
    "modes and random numbers, so it depends on something that cannot be put back.{} Look for a "
    "counter, a cache, a second module or a generator of your own; keep it in buffers of the "
    "model, or as a function of the step in batches."
)
_CARRIED = (
    "model: its buffers {} depend on the weights and shape the gradients of later steps, which "
    "hypergradients do not follow. Start from the same values at every step (a recurrent state: "
    "from zeros), or leave this dependence out by hypergradient(..., constant_buffers={})."
)
