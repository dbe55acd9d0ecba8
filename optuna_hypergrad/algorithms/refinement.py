"""Refinement: descent along hypergradient signs while training continues.

The loss of a member as a function of its hyperparameters changes as it trains, so step sizes must
be able to grow again: this is Rprop. ``sign_descent`` is for trials that start from scratch.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from optuna_hypergrad.algorithms.ranges import Array

GROWTH, SHRINKAGE = 1.2, 0.5  # η⁺ and η⁻ of Rprop
FIRST_STEP, SHORTEST_STEP, LONGEST_STEP = 0.05, 1e-6, 0.25  # in fractions of the range


class RpropState(NamedTuple):
    """Step sizes and signs of n hyperparameters."""

    step_size: Array  # in fractions of the range, shape (n,)
    sign: Array  # last non-zero sign of each hypergradient, initially 0, shape (n,)


def init(n: int) -> RpropState:
    """Return the state before the first step."""
    return RpropState(np.full(n, FIRST_STEP), np.zeros(n))


def descend(point: Array, gradient: Array, state: RpropState) -> tuple[Array, RpropState]:
    """Take one step against the signs of the hypergradient, inside the bounds.

    A step size grows by 1.2 while the sign of its hypergradient stays, and halves when it flips.
    An entry that is zero or not finite moves nothing, and the last sign is kept.

    ``point`` is in fractions of the ranges; only the signs of ``gradient`` matter. Both have the
    shape (n,). Returns the next point, and the state after.

    Reference:
        Riedmiller and Braun (1993), "A direct adaptive method for faster backpropagation
        learning: the RPROP algorithm", without weight backtracking.

    Example:
        >>> x, state = np.array([0.9]), init(1)
        >>> for _ in range(12):                   # descend (x − 0.25)²
        ...     x, state = descend(x, 2 * (x - 0.25), state)
        >>> abs(x - 0.25).round(2)
        array([0.])
    """
    sign = np.sign(np.where(np.isfinite(gradient), gradient, 0.0))
    product = sign * state.sign
    factor = np.where(product > 0, GROWTH, np.where(product < 0, SHRINKAGE, 1.0))
    step = np.clip(factor * state.step_size, SHORTEST_STEP, LONGEST_STEP)
    moved = np.clip(point - step * sign, 0.0, 1.0)
    return moved, RpropState(step, np.where(sign != 0, sign, state.sign))
