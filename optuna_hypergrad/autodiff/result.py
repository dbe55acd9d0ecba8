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
    """What a training run with hypergradients gives back; ``repr`` leaves out lists and details."""

    gradient: dict[str, float]
    """∂(validation loss)/∂λ by trial parameter, in loss per unit of the parameter."""
    loss: float
    """Mean validation loss of the weights that the run ended with."""
    train_losses: list[float] = field(repr=False)
    """Training loss of every step's batch, before the step."""
    products: int
    """Hessian products taken; each costs about as much as one to two gradients."""
    mode: str
    """``"forward"`` or ``"reverse"``: which way the hypergradient was taken."""
    per_step: dict[str, NDArray[np.float64]] | None = field(default=None, repr=False)
    """Reverse mode: ∂(validation loss)/∂(value at each step), shape (steps,), by schedule."""
    clipped: float = field(default=0.0, repr=False)
    """Fraction of the entries of all Hessian products that ``clip_products`` changed."""
    tangent_norm: float | None = field(default=None, repr=False)
    """Forward mode: largest Euclidean norm of a column of ∂w/∂λ; explodes before hypergradients
    turn to noise."""
    replayed: int = field(default=0, repr=False)
    """Reverse mode: steps whose training gradient had to be computed once more."""
    kept_bytes: int = field(default=0, repr=False)
    """Reverse mode: the most bytes that checkpoints and recorded gradients took."""
    cost: Cost | None = None
    """Seconds that the run took, and the most memory that it held beyond what was held before."""
    forecast: Forecast | None = field(default=None, repr=False)
    """With ``mode="auto"``: what both modes were expected to cost."""
    state: State = field(default=(), repr=False, compare=False)
    """What the update remembers at the end (momentum, moments, the step count), a tuple of tensors
    of shape (D,), one number for each learned weight, or (). ``hypergradient(…, state=…)`` goes on
    from it."""
