"""One training step as a pure map, its JVP and its VJP.

| symbol | meaning                                                  | shape          |
| ------ | -------------------------------------------------------- | -------------- |
| w, s   | weights; state of the update (SGD: velocity)             | (D,); (D,), () |
| g, H   | gradient and Hessian of the training loss at w           | (D,), (D, D)   |
| h      | values of the hyperparameters at this step               | ()             |
| λ      | the parameters of their schedules that are learned       | (N,)           |
| Z, C   | ∂w/∂λ and ∂s/∂λ, a row for each λ                        | (N, D)         |
| a, b   | ∂(validation loss)/∂w and ∂(validation loss)/∂s          | (D,)           |

A step is (w, s) ← U(w, s, g(w), h), with U the update; ``apply_update`` is this map.

Forward mode propagates (Z, C) along each row, (Z, C) ← dU(Z, C, H·Z, Λ) with Λ = ∂h/∂λ
(``step_jvp``, FDS Eq. 5). Reverse mode pulls (a, b) back, (a, b) ← (a, b) · ∂U/∂(w, s), and adds
H · (a, b) · ∂U/∂g (``step_vjp``). Only the Hessian products touch the model.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import jvp, vmap

from optuna_hypergrad.autodiff.second_order.hvp import forward_mode
from optuna_hypergrad.autodiff.tracing import Traces
from optuna_hypergrad.autodiff.updates import State, Update, protocol
from optuna_hypergrad.autodiff.updates.protocol import Values


class TrainState(NamedTuple):
    """Weights and state of the update (w, s), their tangents (Z, C), or their adjoint (a, b)."""

    weights: Tensor
    state: State

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Weights and state in a row."""
        return (self.weights, *self.state)

    @property
    def nbytes(self) -> int:
        """Memory of the tensors."""
        return sum(part.nbytes for part in self.tensors)

    def is_finite(self) -> bool:
        """Whether no number is NaN or infinite."""
        return all(bool(part.isfinite().all()) for part in self.tensors)

    def of(self, i: int) -> TrainState:
        """One of several, stacked along the first dimension."""
        return TrainState(self.weights[i], tuple(part[i] for part in self.state))

    def rows(self, rows: list[int]) -> TrainState:
        """The chosen tangents; no copy if these are all."""
        if len(rows) == len(self.weights):
            return self
        return TrainState(self.weights[rows], tuple(part[rows] for part in self.state))

    def with_rows(self, rows: list[int], new: TrainState) -> TrainState:
        """These tangents, the chosen ones replaced by those of ``new``."""
        if len(rows) == len(self.weights):
            return new
        if not rows:
            return self
        index = torch.tensor(rows, dtype=torch.long, device=self.weights.device)
        one = TrainState(new.weights[0], tuple(part[0] for part in new.state))
        pairs = zip(self.state_like(one), new.state, strict=True)
        state = tuple(old.index_copy(0, index, part) for old, part in pairs)
        return TrainState(self.weights.index_copy(0, index, new.weights), state)

    def padded(self, count: int) -> TrainState:
        """``count`` tangents; those added are zero."""
        missing = count - len(self.weights)
        if not missing:
            return self
        weights, *state = (
            torch.cat([part, part.new_zeros((missing, *part.shape[1:]))]) for part in self.tensors
        )
        return TrainState(weights, tuple(state))

    def towards(self, other: TrainState, factors: Tensor) -> TrainState:
        """A part of the way to tangents of the same shapes, by a factor for each row, (N,)."""
        weights, *state = (
            mine + (factors[:, None] if theirs.dim() == 2 else factors) * (theirs - mine)
            for mine, theirs in zip(self.tensors, other.tensors, strict=True)
        )
        return TrainState(weights, tuple(state))

    def times(self, adjoint: TrainState) -> Tensor:
        """Inner product of each tangent with (a, b), shape (N,)."""
        pairs = zip(self.state_like(adjoint), adjoint.state, strict=True)
        return self.weights @ adjoint.weights + sum(
            rows @ b if b.dim() else rows * b for rows, b in pairs
        )

    def state_like(self, point: TrainState) -> State:
        """C in the shape of the state s of ``point``.

        Parts that C lacks are zero, and numbers become vectors if those of s are vectors.
        """
        count = len(self.weights)
        zeros = (self.weights.new_zeros(count) for _ in point.state[len(self.state) :])
        pairs = zip((*self.state, *zeros), point.state, strict=True)
        return tuple(
            part if part.dim() > like.dim() else part[:, None].expand(count, len(like))
            for part, like in pairs
        )


def apply_update(
    update: Update, point: TrainState, gradient: Tensor, hypers: Values, mask: Tensor | None
) -> TrainState:
    """The step itself, (w, s) ← U(w, s, g, h).

    Args:
        update: The inner update U.
        point: w and s.
        gradient: g, shape (D,).
        hypers: Values of the update's hyperparameters.
        mask: Which weights the loss reaches, shape (D,), None for all. As in torch.optim, the
            others and their state do not change.
    """
    new = TrainState(*update(*point, gradient, hypers))
    if mask is None:
        return new
    zeros = (torch.zeros_like(part) for part in new.state[len(point.state) :])
    pairs = zip((*point.state, *zeros), new.state, strict=True)
    state = tuple(torch.where(mask, part, old) for old, part in pairs)
    return TrainState(torch.where(mask, new.weights, point.weights), state)


def step_jvp(
    update: Update,
    point: TrainState,
    tangents: TrainState,
    gradient: Tensor,
    products: Tensor,
    hypers: Values,
    derivatives: dict[str, Tensor],
    mask: Tensor | None,
    traces: Traces,
) -> TrainState:
    """The tangents after one step.

    An update is a pure map. So it takes a trace a fifth of the time that torch.func takes.

    Args:
        update: The inner update U.
        point: w and s.
        tangents: Z and C, N rows; N may be 0.
        gradient: g, shape (D,).
        products: Tangents of g, shape (N, D).
        hypers: Values of the update's hyperparameters at this step.
        derivatives: Λ by hyperparameter, each of shape (N,); those absent do not depend on λ.
        mask: Which weights the loss reaches; see ``apply_update``.
        traces: Those of the update's JVP in this run.
    """
    if len(tangents.weights) == 0:
        return tangents
    learned = {name: hypers[name] for name in derivatives}
    state = tangents.state_like(point)

    def step(w: Tensor, s: State, g: Tensor, h: dict[str, Tensor]) -> TrainState:
        return apply_update(update, TrainState(w, s), g, {**hypers, **h}, mask)

    def push(*directions: Any) -> Any:
        return jvp(step, (*point, gradient, learned), directions)[1]

    def pushed() -> tuple[Tensor, ...]:
        with forward_mode:  # FDS Eq. 5
            return TrainState(*vmap(push)(tangents.weights, state, products, derivatives)).tensors

    given = [*hypers.values(), mask]
    tensors = [one for one in (*given, *derivatives.values()) if isinstance(one, Tensor)]
    inputs = [*point.tensors, *tangents.tensors, gradient, products, *tensors]
    constants = [one for one in given if not isinstance(one, Tensor)]
    constants += protocol.numbers(update).values()  # which a loop of the user's may change
    weights, *state_tangents = traces(
        pushed, inputs, len(point.state), len(tangents.state), tuple(derivatives), *constants
    )
    return TrainState(weights, tuple(state_tangents))


class StepVJP(NamedTuple):
    """Derivatives of the validation loss with respect to the inputs of one step."""

    adjoint: TrainState  # by w and s, with the gradient g held fixed
    gradient: Tensor  # by g, shape (D,)
    hypers: dict[str, Tensor]  # by each learned hyperparameter, shape ()


def step_vjp(
    update: Update,
    point: TrainState,
    gradient: Tensor,
    hypers: Values,
    mask: Tensor | None,
    adjoint: TrainState,
) -> StepVJP:
    """Pull the adjoint back over one step.

    Args:
        update: The inner update U.
        point: w and s before the step.
        gradient: g, shape (D,).
        hypers: Values of the update's hyperparameters; tensors are learned.
        mask: Which weights the loss reaches; see ``apply_update``.
        adjoint: a and b after the step.
    """
    learned = {k: v.detach().requires_grad_() for k, v in hypers.items() if torch.is_tensor(v)}
    weights, *state = (part.detach().requires_grad_() for part in point.tensors)
    leaf = gradient.detach().requires_grad_()
    with torch.enable_grad():
        before = TrainState(weights, tuple(state))
        after = apply_update(update, before, leaf, {**hypers, **learned}, mask)
    pairs = zip(after.tensors, adjoint.tensors, strict=True)
    differentiable = [(out, a) for out, a in pairs if out.requires_grad]
    found = torch.autograd.grad(
        [out for out, _ in differentiable],
        [weights, leaf, *state, *learned.values()],
        [a for _, a in differentiable],
        allow_unused=True,
        materialize_grads=True,
    )
    by_state, by_hparam = found[2 : 2 + len(state)], found[2 + len(state) :]
    return StepVJP(
        TrainState(found[0], tuple(by_state)), found[1], dict(zip(learned, by_hparam, strict=True))
    )
