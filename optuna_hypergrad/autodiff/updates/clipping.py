"""Gradients clipped before the update sees them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from optuna_hypergrad.autodiff.updates.protocol import (
    Hyper,
    State,
    Update,
    Values,
    check_wrapped,
    evaluated,
    trained,
)


@dataclass(frozen=True)
class Clipped:
    """An update whose gradient is clipped first, entry by entry, by its norm, or both.

    By value c: gᵢ ← min(max(gᵢ, −c), c), as in ``torch.nn.utils.clip_grad_value_``. By norm c, of
    what clipping by value has left: g ← g · min(1, c / (‖g‖ + 10⁻⁶)), as in
    ``torch.nn.utils.clip_grad_norm_``. Clipping is part of the training, and hypergradients are
    those of the clipped training, with respect to c as well.

    Args:
        update: What the clipped gradient is given to.
        value: Largest absolute value of an entry; hyperparameter ``clip_value``.
        norm: Largest Euclidean norm of the whole gradient; hyperparameter ``clip_norm``, the same
            for all parameter groups.

    Raises:
        ValueError: If both bounds are missing, one is neither a number nor a schedule, or
            ``update`` is none or clips by the same already.

    Example:
        >>> import torch
        >>> from optuna_hypergrad.autodiff.updates import SGD, Clipped
        >>> clipped = Clipped(SGD(lr=1.0), norm=1.0)
        >>> clipped(torch.zeros(2), (), torch.tensor([3.0, 4.0]), clipped.hypers)[0]
        tensor([-0.6000, -0.8000])
    """

    update: Update
    value: Hyper | None = None
    norm: Hyper | None = None

    def __post_init__(self) -> None:
        if not self._bounds:
            raise ValueError("value or norm must be given, got None for both.")
        check_wrapped(self.update, self._bounds)

    @property
    def hypers(self) -> dict[str, Hyper]:
        """The hyperparameters by name: the update's own, and the bounds."""
        return {**self.update.hypers, **self._bounds}

    @property
    def _bounds(self) -> dict[str, Hyper]:
        bounds = {"clip_value": self.value, "clip_norm": self.norm}
        return {name: bound for name, bound in bounds.items() if bound is not None}

    def __call__(
        self, weights: Tensor, state: State, gradient: Tensor, hypers: Values
    ) -> tuple[Tensor, State]:
        """One step; see ``Update``."""
        if self.value is not None:
            bound = hypers["clip_value"]
            gradient = torch.where(gradient.abs() > bound, bound * gradient.sign(), gradient)
        if self.norm is not None:
            gradient = gradient * _shrinking(gradient, hypers["clip_norm"])
        return self.update(weights, state, gradient, hypers)

    def evaluated(self, weights: Tensor, state: State) -> Tensor:
        """The weights to validate; see ``evaluated``."""
        return evaluated(self.update, weights, state)

    def trained(self, weights: Tensor, state: State) -> Tensor:
        """The weights to train on from; see ``trained``."""
        return trained(self.update, weights, state)


def _shrinking(gradient: Tensor, bound: float | Tensor) -> Tensor:
    if isinstance(bound, Tensor) and bound.ndim:
        raise ValueError("clip_norm bounds the whole gradient; parameter groups cannot differ.")
    factor: Tensor = bound / (gradient.norm() + 1e-6)
    return factor.clamp(max=1.0)
