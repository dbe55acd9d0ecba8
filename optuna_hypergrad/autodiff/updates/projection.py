"""Weights kept in a set, such as within bounds, by a projection after every step."""

from __future__ import annotations

from collections.abc import Callable, Mapping

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
