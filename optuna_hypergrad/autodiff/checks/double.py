"""A loss in double precision, and a line of points at which its derivatives are compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from optuna_hypergrad.autodiff.loss import TrainingLoss
from optuna_hypergrad.autodiff.snapshot import Snapshotter
from optuna_hypergrad.autodiff.stop_gradient.switch import changed_in_place
from optuna_hypergrad.autodiff.updates.protocol import Values

_AWAY = 1e-2  # relative to the weights: initial ones may lie on kinks, as zero biases do
_LOWER = (torch.float32, torch.float16, torch.bfloat16)
_CASTS = (Tensor.float, Tensor.half, Tensor.bfloat16)


def direction_at(point: Tensor, seed: int = 0) -> Tensor:
    """A random direction as long as ``point``, the same for each seed."""
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(len(point), generator=generator, dtype=point.dtype).to(point.device)
    scaled: Tensor = direction * (point.norm().clamp_min(1e-3) / direction.norm())
    return scaled


def near(point: Tensor, seed: int = 1) -> Tensor:
    """A random point nearby, which is hardly ever on a kink."""
    return point + _AWAY * direction_at(point, seed)


class Line:
    """Weights and learned hyperparameters along a line; the model is restored at each point.

    Args:
        loss: The loss.
        hparams: Values of its hyperparameters in the middle of the line.
        seed: Of its middle.
    """

    def __init__(self, loss: TrainingLoss, hparams: Values, seed: int) -> None:
        self._weights, self._hparams, self._split = loss.weights, hparams, loss.split
        self._snapshotter = Snapshotter(loss.model, loss.weights.device)
        self._start, self._point = self._snapshotter.now(), near(loss.weights.read(), seed)
        self._learned = {name: torch.as_tensor(hparams[name]).detach() for name in loss.learned}
        self.direction = direction_at(self._point)
        sizes = [value.abs().clamp_min(1e-3).flatten() for value in self._learned.values()]
        self.of_hparams = torch.cat([self._point.new_empty(0), *sizes]).to(self._point)

    def add_gradient(self, gradient: Tensor) -> None:
        """Give the direction a part along the gradient.

        Where a factor of the loss counts as constant, that is where the derivative lacks most.
        """
        if gradient.isfinite().all() and gradient.any():
            scale = 0.5 * self.direction.norm() / gradient.norm()  # cancels nothing, even in 1-D
            self.direction = self.direction + scale * gradient

    def go(self, step: float) -> Values:
        """Go to a point; gives the hyperparameters there."""
        self._snapshotter.restore(self._start)
        self._weights.write(self._point + step * self.direction)
        pairs = zip(self._learned.items(), self._split(self.of_hparams), strict=True)
        return {**self._hparams, **{name: v + step * change for (name, v), change in pairs}}


class _DoubleOnly(TorchFunctionMode):
    """Casts to lower precision, autocast among them, are left out."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._device = device.type

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        func, kwargs = Tensor.double if func in _CASTS else func, kwargs or {}
        if not changed_in_place(func, args, kwargs)[0]:
            args = tuple(map(_raised, args))
            kwargs = {name: _raised(value) for name, value in kwargs.items()}
        with torch.autocast(self._device, enabled=False):
            result = func(*args, **kwargs)
        for leaf in tree_leaves(result):
            if torch.is_tensor(leaf) and leaf.requires_grad and leaf.dtype in _LOWER:
                raise TypeError(f"{getattr(func, '__name__', func)} gives {leaf.dtype}")
        return result


@contextmanager
def in_double(model: nn.Module) -> Iterator[None]:
    """Parameters and buffers in double precision; afterwards all is as before.

    Parameters stay the same objects.
    """
    parameters = [(p, p.data) for p in model.parameters() if p.is_floating_point()]
    device = next(model.parameters()).device
    with Snapshotter(model, device).unchanged() as before:
        try:
            for parameter, values in parameters:
                parameter.data = values.double()
            for buffer in before.buffers:
                if buffer.tensor is not None:
                    buffer.module._buffers[buffer.name] = doubled(buffer.tensor.clone())
            with _DoubleOnly(device):
                yield
        finally:
            for parameter, values in parameters:
                parameter.data = values
            torch.clear_autocast_cache()


def doubled(tree: Any) -> Any:
    """With all floating tensors in double precision."""

    def one(leaf: Any) -> Any:
        return leaf.double() if torch.is_tensor(leaf) and leaf.is_floating_point() else leaf

    return tree_map(one, tree)


def _raised(value: Any) -> Any:
    """A type, a tensor or a list of tensors, in double precision."""
    if isinstance(value, torch.dtype):
        return torch.float64 if value in _LOWER else value
    if isinstance(value, tuple | list) and any(isinstance(part, Tensor) for part in value):
        return [_raised(part) for part in value]
    if isinstance(value, Tensor) and value.dtype in _LOWER:
        return value.double()
    return value
