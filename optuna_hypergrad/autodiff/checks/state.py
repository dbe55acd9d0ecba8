"""Checks that the gradient depends on nothing but what a snapshot holds."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress

import torch
from torch import Tensor, nn

from optuna_hypergrad.autodiff.checks.double import direction_at
from optuna_hypergrad.autodiff.data import Batch
from optuna_hypergrad.autodiff.loss import TrainingLoss
from optuna_hypergrad.autodiff.snapshot import Buffer, Snapshotter, buffers_of, put_back
from optuna_hypergrad.autodiff.stop_gradient import StopState
from optuna_hypergrad.autodiff.updates.protocol import Values

# How far the weights are moved, relative to them. The first move at which the loss can be computed
# counts: a standard deviation among the weights must not become negative.
_MOVES = (0.3, 0.03, 0.003)

Running = nn.modules.batchnorm._NormBase  # whose running statistics count as constants


def check_state(
    loss: TrainingLoss, batch: Batch, hparams: Values, constant: Collection[str]
) -> None:
    """Raise a ValueError if later gradients depend on earlier weights, or on a hidden state.

    Gradients are taken at the weights, at others and at the first again, from equal buffers and
    generators. The caller restores the model.

    Args:
        loss: The loss.
        batch: The batch.
        hparams: Values of the hyperparameters of the loss.
        constant: Buffers, or modules by their paths, whose dependence on the weights is left out.
    """
    weights, model = loss.weights, loss.model
    snapshotter = Snapshotter(model, weights.device)
    start, point = snapshotter.now(), weights.read()
    frozen = {name: p._version for name, p in weights.frozen.items()}

    def go(at: Tensor, buffers: tuple[Buffer, ...]) -> None:
        snapshotter.restore(start)
        put_back(buffers)
        weights.write(at)

    def gradient(at: Tensor, buffers: tuple[Buffer, ...] = start.buffers) -> Tensor:
        go(at, buffers)
        found = loss.loss_grad(batch, hparams).gradient
        weights.check_unchanged(at, "loss_fn")
        return found

    first, after = gradient(point), buffers_of(model.modules())
    for move in _MOVES:
        with suppress(RuntimeError, ValueError, AssertionError):
            gradient(point + move * direction_at(point))
            break
    after_moved = buffers_of(model.modules())
    if _differ(first, gradient(point)):
        changed = [name for name, p in weights.frozen.items() if p._version != frozen[name]]
        what = [f" loss_fn changes {name!r}, a parameter that is not learned." for name in changed]
        raise ValueError(_HIDDEN.format("".join(what[:1])))
    snapshotter.restore(start)
    recorded = loss.gradients(batch, hparams, twice=True, stops=StopState())[0].gradient
    if _differ(first, recorded) or _changed(model, after, buffers_of(model.modules())):
        raise ValueError(_CHANGED)
    names = [
        name
        for name, module in _changed(model, after, after_moved).items()
        if not isinstance(module, Running) and not is_named(name, constant)
    ]
    if not names:
        return
    quoted = ", ".join(map(repr, names))
    if _differ(gradient(point, after), gradient(point, after_moved)):
        raise ValueError(_DEPENDENT.format(quoted, "the gradients of later steps", names))

    def validated(buffers: tuple[Buffer, ...]) -> Tensor:
        go(point, buffers)
        model.eval()
        return loss(batch, hparams).detach().reshape(1)

    if _differ(validated(after), validated(after_moved)):
        raise ValueError(_DEPENDENT.format(quoted, "the loss in evaluation mode", names))


def _differ(first: Tensor, second: Tensor) -> bool:
    """Whether two gradients differ by more than rounding; False where one is NaN."""
    eps = torch.finfo(first.dtype).eps
    tolerance = 100 * eps if first.device.type == "cpu" else eps**0.5  # atomics on other devices
    return bool((first - second).norm() > tolerance * first.norm())


def _changed(
    model: nn.Module, first: tuple[Buffer, ...], second: tuple[Buffer, ...]
) -> dict[str, nn.Module]:
    """Buffers that came out differently, by path, each with its module."""
    paths = {id(module): path for path, module in model.named_modules()}
    pairs = zip(first, second, strict=True)
    changed = [first for first, second in pairs if not first.same_values_as(second)]
    return {f"{paths[id(b.module)]}.{b.name}".lstrip("."): b.module for b in changed}


def is_named(name: str, chosen: Collection[str]) -> bool:
    """Whether a buffer, or a module that it is in, is among ``chosen``."""
    return any(name == path or name.startswith(f"{path}.") for path in chosen)


_HIDDEN = (
    "loss_fn or model: its gradient differs between two calls at the same weights, batch, buffers, "
    "modes and random numbers, so it depends on something that cannot be put back.{} Look for a "
    "counter, a cache, a second module or a generator of your own; keep it in buffers of the "
    "model, or as a function of the step in batches."
)
_CHANGED = (
    "loss_fn or model: it trains otherwise while what it stops gradients at is recorded. Look for "
    "operations under no_grad that write into several tensors at once, or into tensors of a "
    "module, and write them one by one, in operations of torch's."
)
_DEPENDENT = (
    "model: its buffers {} depend on the weights and shape {}, which hypergradients do not follow. "
    "Start from the same values at every step (a recurrent state: "
    "from zeros), or leave this dependence out by hypergradient(..., constant_buffers={})."
)
