"""Points and directions in which a training is looked at, all generic and the same each time."""

from __future__ import annotations

import torch
from torch import Tensor

from optuna_hypergrad.autodiff.objective import Objective
from optuna_hypergrad.autodiff.replay.surroundings import Surrounding
from optuna_hypergrad.autodiff.updates.protocol import Values

_AWAY = 1e-2  # relative to the weights: initial ones may lie on kinks, as zero biases do


def direction_at(point: Tensor, seed: int = 0) -> Tensor:
    """A random direction, as long as ``point`` is."""
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(len(point), generator=generator, dtype=point.dtype).to(point.device)
    scaled: Tensor = direction * (point.norm().clamp_min(1e-3) / direction.norm())
    return scaled


def near(point: Tensor) -> Tensor:
    """A point nearby, on no kink."""
    return point + _AWAY * direction_at(point, seed=1)


class Line:
    """Weights and learned hyperparameters along a line, the model put back at each of its points.

    Args:
        objective: The loss.
        hypers: Values of its hyperparameters in the middle of the line.
    """

    def __init__(self, objective: Objective, hypers: Values) -> None:
        self._weights, self._hypers = objective.weights, hypers
        self._surrounding = Surrounding(objective.model, objective.weights.device, ())
        self._start, self._point = self._surrounding.now(), near(objective.weights.read())
        self._learned = objective.learned
        self.direction = direction_at(self._point)
        learned = [torch.as_tensor(hypers[name]).detach() for name in self._learned]
        sizes = [max(float(value.abs()), 1e-3) for value in learned]
        self.of_hypers = self._point.new_tensor(sizes)

    def turn(self, gradient: Tensor) -> None:
        """Give the direction a part along the gradient.

        Where a factor of the loss counts as constant, that is where the derivative lacks most.
        """
        if gradient.isfinite().all() and gradient.any():
            scale = 0.5 * self.direction.norm() / gradient.norm()  # cancels nothing, even in 1-D
            self.direction = self.direction + scale * gradient

    def go(self, step: float) -> Values:
        """Go to a point; gives the hyperparameters there."""
        self._surrounding.restore(self._start)
        self._weights.write(self._point + step * self.direction)
        pairs = zip(self._learned, self.of_hypers, strict=True)
        moved = {
            name: torch.as_tensor(self._hypers[name]).detach() + step * change
            for name, change in pairs
        }
        return {**self._hypers, **moved}
