"""Gradient projection: along the bound of a feasible region rather than out of it."""

from __future__ import annotations

import numpy as np

from optuna_hypergrad.algorithms.ranges import Array, Ranges

ROUNDING = 1e-9  # what rounding leaves of a gradient, as a fraction of it


def by_fractions(point: Array, gradient: Array, ranges: Ranges) -> Array:
    """A gradient by fractions of the ranges, up to a positive factor, shape (n,).

    Args:
        point: Where it was taken, in search coordinates, shape (n,).
        gradient: By natural values, shape (n,); entries that are not finite count as 0.
        ranges: Bounds of the hyperparameters.
    """
    known = np.where(np.isfinite(gradient), gradient, 0.0)
    largest = np.abs(known).max(initial=0.0)
    scaled = known / largest if largest > 0 else known
    return ranges.unit_gradient(ranges.to_natural(point), scaled)


def projected(gradient: Array, normal: Array) -> Array:
    """A gradient without its part along the hypergradient of a constraint.

    Only where descent would lead back across the constraint, and where something is left of it.

    Args:
        gradient: Of the loss, shape (n,).
        normal: Of the constraint, in the same coordinates, shape (n,).

    Reference:
        Rosen (1960), "The gradient projection method for nonlinear programming".

    Example:
        >>> projected(np.array([-1.0, -3.0]), np.array([1.0, 1.0]))
        array([ 1., -1.])
        >>> projected(np.array([1.0, -3.0]), np.array([1.0, 0.0]))
        array([ 1., -3.])
    """
    along = gradient @ normal
    if along >= 0:
        return gradient
    rest = gradient - along / (normal @ normal) * normal
    rest[np.abs(rest) <= ROUNDING * np.abs(gradient).max()] = 0.0
    return rest if rest.any() else gradient
