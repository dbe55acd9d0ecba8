"""Forward mode over one step: the tangents of the weights, carried along with them.

The recursion (FDS, Eq 5) is the derivative of one line, (w, s) ← U(w, s, g(w), h), along each
row: (Z, C) ← dU(Z, C, H·Z, Λ), with Λ = ∂h/∂λ. Only H·Z touches the model; see carried.py for
the symbols.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.func import jvp, vmap

from optuna_hypergrad.autodiff.carried import Carried, moved
from optuna_hypergrad.autodiff.forward_ad import forward_mode
from optuna_hypergrad.autodiff.updates import State, Update
from optuna_hypergrad.autodiff.updates.protocol import Values


def advance(
    update: Update,
    point: Carried,
    tangents: Carried,
    gradient: Tensor,
    products: Tensor,
    hypers: Values,
    slopes: dict[str, Tensor],
    reached: Tensor | None,
) -> tuple[Carried, Carried]:
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

    def step(w: Tensor, s: State, g: Tensor, h: dict[str, Tensor]) -> Carried:
        return moved(update, Carried(w, s), g, {**hypers, **h}, reached)

    def along(*directions: Any) -> Any:
        return jvp(step, (*point, gradient, learned), directions)[1]

    with forward_mode:
        return new_point, Carried(*vmap(along)(tangents.weights, state, products, slopes))
