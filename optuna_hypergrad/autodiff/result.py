"""What a training run with hypergradients gives back."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from optuna_hypergrad.autodiff.forecast import Forecast
from optuna_hypergrad.autodiff.metering import Cost
from optuna_hypergrad.autodiff.updates import State


@dataclass(frozen=True)
class Hypergradient:
    """What a training run with hypergradients gives back."""

    gradient: dict[str, float]
    """∂(validation loss)/∂λ by trial parameter, in loss per unit of the parameter."""
    loss: float
    """Mean validation loss of the weights that the run ended with."""
    train_losses: list[float]
    """Training loss of every step's batch, before the step."""
    products: int
    """Hessian products taken; each costs about as much as one to two gradients."""
    mode: str
    """``"forward"`` or ``"reverse"``: which way the hypergradient was taken."""
    per_step: dict[str, NDArray[np.float64]] | None = None
    """Reverse mode: ∂(validation loss)/∂(value at each step), shape (steps,), by schedule."""
    clipped: float = 0.0
    """Fraction of the entries of all Hessian products that ``clip_products`` changed."""
    tangent_norm: float | None = None
    """Forward mode: largest Euclidean norm of a column of ∂w/∂λ; explodes before hypergradients
    turn to noise."""
    replayed: int = 0
    """Reverse mode: steps whose training gradient had to be computed once more."""
    kept_bytes: int = 0
    """Reverse mode: the most bytes that checkpoints and recorded gradients took."""
    cost: Cost | None = None
    """Seconds that the run took, and the most memory that it held beyond what was held before."""
    forecast: Forecast | None = None
    """With ``mode="auto"``: what both modes were expected to cost."""
    state: State = field(default=(), repr=False, compare=False)
    """What the update remembers at the end (momentum, moments, the step count), a tuple of tensors
    of shape (D,), one number for each learned weight, or (). ``hypergradient(…, state=…)`` goes on
    from it."""
