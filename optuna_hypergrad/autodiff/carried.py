"""One training step of the weights as a pure map, and what it hands on.

| symbol | meaning                                                  | shape          |
| ------ | -------------------------------------------------------- | -------------- |
| w, s   | weights; what the update remembers (SGD: velocity)       | (D,); (D,), () |
| g, H   | gradient and Hessian of the training loss at w           | (D,), (D, D)   |
| h      | values of the hyperparameters at this step               | ()             |
| λ      | the parameters of their schedules that are learned       | (N,)           |
| Z, C   | ∂w/∂λ and ∂s/∂λ, a row for each λ                        | (N, D)         |
| a, b   | ∂(validation loss)/∂w and ∂(validation loss)/∂s          | (D,)           |

A step is (w, s) ← U(w, s, g(w), h), with U the update. Forward mode (tangents.py) carries (Z, C)
along with (w, s), reverse mode (adjoints.py) takes (a, b) back; both differentiate ``moved``.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from optuna_hypergrad.autodiff.updates import State, Update
from optuna_hypergrad.autodiff.updates.protocol import Values


class Carried(NamedTuple):
    """What one step hands to the next: (w, s), or rows (Z, C), or (a, b)."""

    weights: Tensor
    state: State

    @property
    def bytes(self) -> int:
        """Memory that it takes."""
        return sum(part.numel() * part.element_size() for part in (self.weights, *self.state))

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
        one = Carried(new.weights[0], tuple(part[0] for part in new.state))
        pairs = zip(self.widened(one), new.state, strict=True)
        state = tuple(old.index_copy(0, index, part) for old, part in pairs)
        return Carried(self.weights.index_copy(0, index, new.weights), state)

    def grown(self, count: int) -> Carried:
        """With ``count`` rows; those that are new start at zero."""
        state = tuple(with_rows(part, count) for part in self.state)
        return Carried(with_rows(self.weights, count), state)

    def times(self, adjoint: Carried) -> Tensor:
        """Each row's inner product with (a, b), shape (N,)."""
        pairs = zip(self.widened(adjoint), adjoint.state, strict=True)
        return self.weights @ adjoint.weights + sum(
            rows @ b if b.dim() else rows * b for rows, b in pairs
        )

    def widened(self, point: Carried) -> State:
        """The rows' state in the shape of that of ``point``.

        Parts that the rows lack are zero, and numbers become vectors where ``point`` has vectors.
        """
        count = len(self.weights)
        zeros = (self.weights.new_zeros(count) for _ in point.state[len(self.state) :])
        pairs = zip((*self.state, *zeros), point.state, strict=True)
        return tuple(
            part if part.dim() > like.dim() else part[:, None].expand(count, len(like))
            for part, like in pairs
        )


def moved(
    update: Update, point: Carried, gradient: Tensor, hypers: Values, reached: Tensor | None
) -> Carried:
    """The step itself, (w, s) ← U(w, s, g, h).

    Args:
        update: The inner update U.
        point: w and s.
        gradient: g, shape (D,).
        hypers: Values of the update's hyperparameters.
        reached: Which weights the loss reaches, shape (D,), None for all. Like torch.optim, leave
            the others alone, and what the update remembers of them.
    """
    new = Carried(*update(*point, gradient, hypers))
    if reached is None:
        return new
    zeros = (torch.zeros_like(part) for part in new.state[len(point.state) :])
    pairs = zip((*point.state, *zeros), new.state, strict=True)
    state = tuple(torch.where(reached, part, old) for old, part in pairs)
    return Carried(torch.where(reached, new.weights, point.weights), state)


def with_rows(part: Tensor, count: int) -> Tensor:
    """``part`` with zero rows added up to ``count``."""
    missing = count - len(part)
    return torch.cat([part, part.new_zeros((missing, *part.shape[1:]))]) if missing else part
