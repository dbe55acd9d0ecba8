"""Refinement: descent along hypergradient signs while the student goes on training.

The landscape of a student moves as it trains, so step sizes must be able to grow again: this is
resilient propagation. ``sign_descent`` is the rule for trials that start from scratch.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from optuna_hypergrad.algorithms.ranges import Array

GROWTH, SHRINKAGE = 1.2, 0.5  # η⁺ and η⁻ of the reference
FIRST_STEP, SHORTEST_STEP, LONGEST_STEP = 0.05, 1e-6, 0.25  # in fractions of the range


class Pace(NamedTuple):
    """How a student moves along each of n hyperparameters."""

    step_size: Array  # in fractions of the range, shape (n,)
    sign: Array  # last non-zero sign of each hypergradient, 0 before, shape (n,)


def init(n: int) -> Pace:
    """The pace of a student that has not moved yet."""
    return Pace(np.full(n, FIRST_STEP), np.zeros(n))


def descend(point: Array, gradient: Array, pace: Pace) -> tuple[Array, Pace]:
    """One step against the signs of the hypergradient, inside the bounds.

    A step size grows by 1.2 while the sign of its hypergradient stays, and halves when it flips.
    An entry that is zero or not finite moves nothing and forgets nothing.

    Args:
        point: Hyperparameters in fractions of their ranges, shape (n,).
        gradient: Hypergradient there, in any positive units, shape (n,).
        pace: The pace before.

    Returns:
        The next point, and the pace after.

    Reference:
        Riedmiller and Braun (1993), "A direct adaptive method for faster backpropagation
        learning: the RPROP algorithm", without weight backtracking.

    Example:
        >>> x, pace = np.array([0.9]), init(1)
        >>> for _ in range(12):                   # descend (x − 0.25)²
        ...     x, pace = descend(x, 2 * (x - 0.25), pace)
        >>> abs(x - 0.25).round(2)
        array([0.])
    """
    sign = np.sign(np.where(np.isfinite(gradient), gradient, 0.0))
    turned = sign * pace.sign
    factor = np.where(turned > 0, GROWTH, np.where(turned < 0, SHRINKAGE, 1.0))
    step = np.clip(factor * pace.step_size, SHORTEST_STEP, LONGEST_STEP)
    moved = np.clip(point - step * sign, 0.0, 1.0)
    return moved, Pace(step, np.where(sign != 0, sign, pace.sign))
