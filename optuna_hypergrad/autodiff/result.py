"""The result of a training run with hypergradients, and its cost in time and memory."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from optuna_hypergrad.autodiff.growth import Growth
from optuna_hypergrad.autodiff.updates import State


@dataclass
class Cost:
    """Time and memory of a piece of work."""

    seconds: float = 0.0
    """Wall-clock time."""
    bytes: int | None = None
    """Peak of memory beyond what was held before; on a CPU that of the whole process, including
    other threads. None if unknown: the system does not say (not Linux), or the process has held as
    much before (see ``resetting``)."""


@dataclass(frozen=True)
class Hypergradient:
    """Result of a training run with hypergradients; ``repr`` leaves out lists and details."""

    gradient: dict[str, float]
    """∂(validation loss)/∂λ by trial parameter, in loss per unit of the parameter."""
    loss: float
    """Mean validation loss of the trained weights."""
    train_losses: list[float] = field(repr=False)
    """Training loss of every step's batch, before the step."""
    products: int
    """Number of Hessian products; each costs about as much as one or two gradients."""
    mode: str
    """The mode that was used, ``"forward"`` or ``"reverse"``."""
    tensors: dict[str, Tensor] = field(default_factory=dict, repr=False)
    """Reverse mode: ∂(validation loss)/∂λ of each hyperparameter that was given as a tensor, in its
    shape."""
    per_step: dict[str, NDArray[np.float64]] | None = field(default=None, repr=False)
    """Reverse mode: ∂(validation loss)/∂(value at each step), shape (steps,), by schedule."""
    growth: Growth | None = field(default=None, repr=False)
    """How fast derivatives grow over the run, and how far they were damped; None for plain
    training, and in reverse mode for a run that has diverged."""
    clipped: float = field(default=0.0, repr=False)
    """Fraction of the entries of all Hessian products that ``clip_products`` changed."""
    tangent_norm: float | None = field(default=None, repr=False)
    """Forward mode: largest Euclidean norm of a tangent ∂w/∂λ; it explodes before hypergradients
    turn to noise."""
    recomputed: int = field(default=0, repr=False)
    """Reverse mode: number of training gradients that were computed again."""
    kept_bytes: int = field(default=0, repr=False)
    """Reverse mode: peak of the memory of checkpoints and recorded gradients."""
    cost: Cost | None = None
    """Seconds of the run, and its peak of memory beyond what was held before."""
    state: State = field(default=(), repr=False, compare=False)
    """State of the update at the end (momentum, moments, the step count): a tuple of tensors of
    shape (D,), one number for each learned weight, or (). ``hypergradient(…, state=…)`` continues
    from it."""

    @property
    def replayed(self) -> int:
        """The old name of ``recomputed``."""
        message = "replayed is now called recomputed; the next version removes the old name."
        warnings.warn(message, FutureWarning, stacklevel=2)
        return self.recomputed
