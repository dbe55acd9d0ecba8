"""Reverse mode over one step: the adjoint of the weights, taken back.

With (a, b) the derivative of the validation loss by the (w, s) that a step arrives at, that by
what it came from is (a, b) · ∂U/∂(w, s, g, h), to which the model adds H · (a, b) · ∂U/∂g. See
carried.py for the symbols.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from optuna_hypergrad.autodiff.carried import Carried, moved
from optuna_hypergrad.autodiff.updates import Update
from optuna_hypergrad.autodiff.updates.protocol import Values


class Retreat(NamedTuple):
    """Derivatives of the validation loss by what one step takes in."""

    adjoint: Carried  # by w and s, at a gradient g that is held fixed
    gradient: Tensor  # by g, shape (D,)
    hypers: dict[str, Tensor]  # by each learned hyperparameter, shape ()


def retreat(
    update: Update,
    point: Carried,
    gradient: Tensor,
    hypers: Values,
    reached: Tensor | None,
    adjoint: Carried,
) -> Retreat:
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
        before = Carried(weights, tuple(state))
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
    return Retreat(
        Carried(found[0], tuple(by_state)), found[1], dict(zip(learned, by_hyper, strict=True))
    )
