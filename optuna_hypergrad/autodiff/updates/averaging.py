"""Weights averaged over the steps, for validation."""

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
)


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
