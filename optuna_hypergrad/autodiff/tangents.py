"""One training step of the weights and, with it, of their tangents.

| symbol | meaning                                             | shape  |
| ------ | --------------------------------------------------- | ------ |
| w, s   | weights; what the update remembers (SGD: velocity)  | (D,)   |
| g, H   | gradient and Hessian of the training loss at w      | (D,)   |
| λ      | the hyperparameters that are learned                | (N,)   |
| Z, C   | ∂w/∂λ and ∂s/∂λ, a row for each column of the paper | (N, D) |
| Λ      | ∂(value at this step)/∂λ, for each hyperparameter   | (N,)   |

With U the update, the forward-mode recursion (FDS, Eq 5) is the derivative of one line,
(w, s) ← U(w, s, g(w), h), along each row: (Z, C) ← dU(Z, C, H·Z, Λ). Only H·Z touches the model.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import jvp, vmap
from torch.nn.functional import pad

from optuna_hypergrad.autodiff.updates import State, Update

with warnings.catch_warnings():
    # torch 2.15 warns of its own torch.jit.script when forward mode is entered for the first time.
    warnings.filterwarnings("ignore", "`torch.jit.script", FutureWarning)
    jvp(torch.neg, (torch.zeros(()),), (torch.zeros(()),))


class Carried(NamedTuple):
    """What one step hands to the next: (w, s), or, with a row for each column, (Z, C)."""

    weights: Tensor
    state: State

    def rows(self, rows: list[int]) -> Carried:
        """The chosen rows; without a copy where these are all."""
        if len(rows) == len(self.weights):
            return self
        return Carried(self.weights[rows], tuple(part[rows] for part in self.state))

    def replaced(self, rows: list[int], new: Carried) -> Carried:
        """With the chosen rows replaced; the others stand still."""
        if len(rows) == len(self.weights):
            return new
        if not rows:
            return self
        index = torch.tensor(rows, dtype=torch.long, device=self.weights.device)
        state = zip(self._state_like(new), new.state, strict=True)
        return Carried(
            self.weights.index_copy(0, index, new.weights),
            tuple(old.index_copy(0, index, part) for old, part in state),
        )

    def grown(self, count: int) -> Carried:
        """With ``count`` rows; those that are new start at zero."""
        state = tuple(with_rows(part, count) for part in self.state)
        return Carried(with_rows(self.weights, count), state)

    def moved_where(self, reached: Tensor, new: Carried) -> Carried:
        """``new`` at the weights that are ``reached`` (shape (D,)), unchanged at the others."""
        state = zip(self._state_like(new), new.state, strict=True)
        return Carried(
            torch.where(reached, new.weights, self.weights),
            tuple(torch.where(reached, part, old) for old, part in state),
        )

    def _state_like(self, new: Carried) -> State:
        """The state with as many parts as that of ``new``; those it lacks are zero."""
        missing = len(new.state) - len(self.state)
        return self.state + (torch.zeros_like(self.weights),) * missing


def with_rows(part: Tensor, count: int) -> Tensor:
    """``part`` with zero rows added up to ``count``."""
    missing = count - len(part)
    return pad(part, (0, 0, 0, missing)) if missing else part


def advance(
    update: Update,
    point: Carried,
    tangents: Carried,
    gradient: Tensor,
    products: Tensor,
    hypers: Mapping[str, float | Tensor],
    derivatives: dict[str, Tensor],
) -> tuple[Carried, Carried]:
    """One step of the weights and of their tangents.

    Args:
        update: The inner update U.
        point: w and s, of shape (D,).
        tangents: Z and C, of shape (N, D); N may be 0.
        gradient: g, shape (D,).
        products: H·Z, shape (N, D).
        hypers: Values of the hyperparameters at this step.
        derivatives: Λ by hyperparameter, each of shape (N,); those absent do not depend on λ.

    Returns:
        The new point and the new tangents.
    """
    new_point = Carried(*update(*point, gradient, hypers))
    if len(tangents.weights) == 0:
        return new_point, tangents
    learned = {name: hypers[name] for name in derivatives}
    tangents = Carried(tangents.weights, tangents._state_like(point))

    def moved(w: Tensor, s: State, g: Tensor, h: dict[str, Tensor]) -> tuple[Tensor, State]:
        return update(w, s, g, {**hypers, **h})

    def along(*directions: Any) -> Any:
        return jvp(moved, (*point, gradient, learned), directions)[1]

    return new_point, Carried(*vmap(along)(*tangents, products, derivatives))
