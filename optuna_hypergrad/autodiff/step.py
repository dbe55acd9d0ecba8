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

Forward mode over one step: the tangents of the weights, carried along with them.

The recursion (FDS, Eq 5) is the derivative of one line, (w, s) ← U(w, s, g(w), h), along each
row: (Z, C) ← dU(Z, C, H·Z, Λ), with Λ = ∂h/∂λ. Only H·Z touches the model; see carried.py for
the symbols.

Reverse mode over one step: the adjoint of the weights, taken back.

With (a, b) the derivative of the validation loss by the (w, s) that a step arrives at, that by
what it came from is (a, b) · ∂U/∂(w, s, g, h), to which the model adds H · (a, b) · ∂U/∂g. See
carried.py for the symbols.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import jvp, vmap

from optuna_hypergrad.autodiff.second_order.hvp import forward_mode
from optuna_hypergrad.autodiff.updates import State, Update
from optuna_hypergrad.autodiff.updates.protocol import Values


class TrainState(NamedTuple):
    """What one step hands to the next: (w, s), or rows (Z, C), or (a, b)."""

    weights: Tensor
    state: State

    @property
    def bytes(self) -> int:
        """Memory that it takes."""
        return sum(part.numel() * part.element_size() for part in (self.weights, *self.state))

    def rows(self, rows: list[int]) -> TrainState:
        """The chosen rows; without a copy where these are all."""
        if len(rows) == len(self.weights):
            return self
        return TrainState(self.weights[rows], tuple(part[rows] for part in self.state))

    def replaced(self, rows: list[int], new: TrainState) -> TrainState:
        """With the chosen rows replaced; the others stand still."""
        if len(rows) == len(self.weights):
            return new
        if not rows:
            return self
        index = torch.tensor(rows, dtype=torch.long, device=self.weights.device)
        one = TrainState(new.weights[0], tuple(part[0] for part in new.state))
        pairs = zip(self.widened(one), new.state, strict=True)
        state = tuple(old.index_copy(0, index, part) for old, part in pairs)
        return TrainState(self.weights.index_copy(0, index, new.weights), state)

    def grown(self, count: int) -> TrainState:
        """With ``count`` rows; those that are new start at zero."""
        state = tuple(with_rows(part, count) for part in self.state)
        return TrainState(with_rows(self.weights, count), state)

    def times(self, adjoint: TrainState) -> Tensor:
        """Each row's inner product with (a, b), shape (N,)."""
        pairs = zip(self.widened(adjoint), adjoint.state, strict=True)
        return self.weights @ adjoint.weights + sum(
            rows @ b if b.dim() else rows * b for rows, b in pairs
        )

    def widened(self, point: TrainState) -> State:
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
    update: Update, point: TrainState, gradient: Tensor, hypers: Values, reached: Tensor | None
) -> TrainState:
    """The step itself, (w, s) ← U(w, s, g, h).

    Args:
        update: The inner update U.
        point: w and s.
        gradient: g, shape (D,).
        hypers: Values of the update's hyperparameters.
        reached: Which weights the loss reaches, shape (D,), None for all. Like torch.optim, leave
            the others alone, and what the update remembers of them.
    """
    new = TrainState(*update(*point, gradient, hypers))
    if reached is None:
        return new
    zeros = (torch.zeros_like(part) for part in new.state[len(point.state) :])
    pairs = zip((*point.state, *zeros), new.state, strict=True)
    state = tuple(torch.where(reached, part, old) for old, part in pairs)
    return TrainState(torch.where(reached, new.weights, point.weights), state)


def with_rows(part: Tensor, count: int) -> Tensor:
    """``part`` with zero rows added up to ``count``."""
    missing = count - len(part)
    return torch.cat([part, part.new_zeros((missing, *part.shape[1:]))]) if missing else part


def step_jvp(
    update: Update,
    point: TrainState,
    tangents: TrainState,
    gradient: Tensor,
    products: Tensor,
    hypers: Values,
    slopes: dict[str, Tensor],
    reached: Tensor | None,
) -> tuple[TrainState, TrainState]:
    """One step of the weights and of their tangents.

    Args:
        update: The inner update U.
        point: w and s.
        tangents: Z and C, N rows; N may be 0.
        gradient: g, shape (D,).
        products: The tangents of g, shape (N, D).
        hypers: Values of the update's hyperparameters at this step.
        slopes: Λ by hyperparameter, each of shape (N,); those absent do not depend on λ.
        reached: Which weights the loss reaches; see ``moved``.

    Returns:
        The new point and the new tangents.
    """
    new_point = moved(update, point, gradient, hypers, reached)
    if len(tangents.weights) == 0:
        return new_point, tangents
    learned = {name: hypers[name] for name in slopes}
    state = tangents.widened(point)

    def step(w: Tensor, s: State, g: Tensor, h: dict[str, Tensor]) -> TrainState:
        return moved(update, TrainState(w, s), g, {**hypers, **h}, reached)

    def along(*directions: Any) -> Any:
        return jvp(step, (*point, gradient, learned), directions)[1]

    with forward_mode:
        return new_point, TrainState(*vmap(along)(tangents.weights, state, products, slopes))


class StepVJP(NamedTuple):
    """Derivatives of the validation loss by what one step takes in."""

    adjoint: TrainState  # by w and s, at a gradient g that is held fixed
    gradient: Tensor  # by g, shape (D,)
    hypers: dict[str, Tensor]  # by each learned hyperparameter, shape ()


def step_vjp(
    update: Update,
    point: TrainState,
    gradient: Tensor,
    hypers: Values,
    reached: Tensor | None,
    adjoint: TrainState,
) -> StepVJP:
    """Take the adjoint back over one step.

    Args:
        update: The inner update U.
        point: w and s before the step.
        gradient: g, shape (D,).
        hypers: Values of the update's hyperparameters; tensors are learned.
        reached: Which weights the loss reaches; see ``moved``.
        adjoint: a and b after the step.
    """
    learned = {k: v.detach().requires_grad_() for k, v in hypers.items() if torch.is_tensor(v)}
    weights, *state = (part.detach().requires_grad_() for part in (point.weights, *point.state))
    slope = gradient.detach().requires_grad_()
    with torch.enable_grad():
        before = TrainState(weights, tuple(state))
        after = moved(update, before, slope, {**hypers, **learned}, reached)
    pairs = zip((after.weights, *after.state), (adjoint.weights, *adjoint.state), strict=True)
    curved = [(out, a) for out, a in pairs if out.requires_grad]
    found = torch.autograd.grad(
        [out for out, _ in curved],
        [weights, slope, *state, *learned.values()],
        [a for _, a in curved],
        allow_unused=True,
        materialize_grads=True,
    )
    by_state, by_hyper = found[2 : 2 + len(state)], found[2 + len(state) :]
    return StepVJP(
        TrainState(found[0], tuple(by_state)), found[1], dict(zip(learned, by_hyper, strict=True))
    )
