"""Gradients clipped before the update sees them.

Weights averaged over the steps, for validation.

Weights kept in a set, such as within bounds, by a projection after every step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from optuna_hypergrad.arguments import check_callable, check_kind
from optuna_hypergrad.autodiff.updates.protocol import (
    Hyper,
    State,
    Update,
    Values,
    check_wrapped,
    evaluated,
    trained,
)
from optuna_hypergrad.autodiff.weights import FlatWeights, replaced


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


@dataclass(frozen=True)
class Averaged:
    """An update beside which an exponential moving average of the weights is kept.

    a ← κ·a + (1 − κ)·w after every step, with a = w after the first one, as in
    ``torch.optim.swa_utils.AveragedModel`` with ``get_ema_avg_fn(κ)``. Training goes on from w;
    validation sees a. What is kept is δ = a − w, which is 0 for weights that have not moved. At
    a step whose loss does not reach a weight, its δ stands still as well; torch's decays.

    Args:
        update: What moves the weights.
        decay: κ, the hyperparameter ``average_decay``; 0 averages nothing.

    Raises:
        ValueError: If ``decay`` is neither a number nor a schedule, or ``update`` is none or
            averages already.

    Example:
        >>> import torch
        >>> from optuna_hypergrad.autodiff import SGD, Averaged
        >>> update, gradient = Averaged(SGD(1.0), decay=0.5), torch.ones(1)
        >>> weights, state = torch.zeros(1), ()
        >>> for _ in range(2):                      # w is −1, then −2
        ...     weights, state = update(weights, state, gradient, update.hypers)
        >>> update.evaluated(weights, state)        # a = 0.5 · (−1) + 0.5 · (−2)
        tensor([-1.5000])
    """

    update: Update
    decay: Hyper

    def __post_init__(self) -> None:
        check_wrapped(self.update, {"average_decay": self.decay})

    @property
    def hypers(self) -> dict[str, Hyper]:
        """The hyperparameters by name: the update's own, and ``average_decay``."""
        return {**self.update.hypers, "average_decay": self.decay}

    def __call__(
        self, weights: Tensor, state: State, gradient: Tensor, hypers: Values
    ) -> tuple[Tensor, State]:
        """One step; see ``Update``. The state is δ, and then that of the update."""
        moved, inner = self.update(weights, state[1:], gradient, hypers)
        if not state:
            return moved, (torch.zeros_like(moved), *inner)
        # a − w after the step, where a is the average of a before and w after.
        return moved, (hypers["average_decay"] * (state[0] + weights - moved), *inner)

    def evaluated(self, weights: Tensor, state: State) -> Tensor:
        """The averaged weights, shape (D,), which validation sees."""
        return weights + state[0] if state else weights

    def trained(self, weights: Tensor, state: State) -> Tensor:
        """The weights that are trained, shape (D,), from averaged ones."""
        return weights - state[0] if state else weights


Projection = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]


class Projected:
    """An update after which some weights are projected, as projected gradient descent does.

    w ← P(w) after every step of the update: clipped critics, non-negative weights, bounded norms.
    The projection is part of the training, and hypergradients are those of the projected training.

    Args:
        update: What moves the weights.
        model: The model that is trained. Which of its parameters require a gradient must not
            change afterwards.
        projection: Gives new values for some of the weights, from all of them by name as in
            ``named_parameters``; in operations of torch that can be differentiated, such as
            ``clamp``, and without changing what it gets.

    Raises:
        ValueError: If ``update`` or ``model`` is none, or ``projection`` no function. At a step, if
            it gives a weight that is not learned, or one of another shape.

    Reference:
        Levitin and Polyak, "Constrained minimization methods", 1966 (the gradient projection
        method).

    Example:
        >>> import torch
        >>> from optuna_hypergrad.autodiff import SGD, Projected
        >>> model = torch.nn.Linear(2, 1)
        >>> bounded = Projected(SGD(1.0), model, lambda w: {"weight": w["weight"].clamp(-0.5, 0.5)})
        >>> bounded(torch.zeros(3), (), torch.tensor([3.0, 0.1, 2.0]), bounded.hypers)[0]
        tensor([-0.5000, -0.1000, -2.0000])
    """

    def __init__(self, update: Update, model: nn.Module, projection: Projection) -> None:
        check_wrapped(update, {})
        check_kind("model", model, nn.Module, "a torch.nn.Module")
        check_callable("projection", projection)
        self.update, self._projection = update, projection
        self._weights = FlatWeights(model)

    @property
    def hypers(self) -> dict[str, Hyper]:
        """The hyperparameters by name: the update's own."""
        return dict(self.update.hypers)

    def __call__(
        self, weights: Tensor, state: State, gradient: Tensor, hypers: Values
    ) -> tuple[Tensor, State]:
        """One step; see ``Update``."""
        moved, state = self.update(weights, state, gradient, hypers)
        named = dict(zip(self._weights.names, self._weights.split(moved), strict=True))
        return replaced("projection", named, self._projection(named)), state

    def evaluated(self, weights: Tensor, state: State) -> Tensor:
        """The weights to validate; see ``evaluated``."""
        return evaluated(self.update, weights, state)

    def trained(self, weights: Tensor, state: State) -> Tensor:
        """The weights to train on from; see ``trained``."""
        return trained(self.update, weights, state)
