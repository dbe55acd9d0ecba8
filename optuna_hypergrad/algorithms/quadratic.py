"""A model of losses by hyperparameters: a quadratic without interactions, for mutation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from optuna_hypergrad.algorithms.ranges import Array

RIDGE = 0.01  # penalty of squared coefficients, in units of the mean squared residual
PROBABILITY = 0.5  # that a hyperparameter of a clone moves to the minimum of the model …
SPREAD = 0.05  # … with this standard deviation, in fractions of the range
FLAT = 1e-9  # curvatures below are those of a line


def minimum(points: Array, losses: Array) -> Array:
    """Return the minimum of a fitted quadratic, inside the range of the points.

    Ridge regression of the losses on Σ aᵢuᵢ² + bᵢuᵢ + c. Where the fitted curvature is not
    positive, the minimum is at the lower end of the range that the points span: the model does not
    extrapolate.

    Args:
        points: Fractions u of the ranges, shape (N, n).
        losses: One for each point, shape (N,).

    Example:
        >>> u = np.random.default_rng(0).random((40, 2))
        >>> ripples = 0.1 * np.sin(40 * u).sum(axis=1)
        >>> minimum(u, ((u - [0.3, 0.6]) ** 2).sum(axis=1) + ripples).round(1)
        array([0.3, 0.6])
    """
    n = points.shape[1]
    z = 2 * points - 1
    features = np.hstack([z, z**2])
    features -= features.mean(axis=0)
    target = losses - losses.mean()
    penalty = RIDGE * len(points)
    if len(points) < 2 * n:  # the same by the smaller system
        gram = features @ features.T + penalty * np.eye(len(points))
        weights = features.T @ np.linalg.solve(gram, target)
    else:
        gram = features.T @ features + penalty * np.eye(2 * n)
        weights = np.linalg.solve(gram, features.T @ target)
    linear, curvature = weights[:n], weights[n:]
    low, high = z.min(axis=0), z.max(axis=0)
    is_bowl = curvature > FLAT
    inside = np.clip(-linear / np.where(is_bowl, 2 * curvature, 1.0), low, high)
    falls = linear * (high - low) + curvature * (high**2 - low**2) < 0
    lowest: Array = (np.where(is_bowl, inside, np.where(falls, high, low)) + 1) / 2
    return lowest


def moved(point: Array, lowest: Array, rng: np.random.Generator) -> tuple[Array, NDArray[np.bool_]]:
    """Move about half of the hyperparameters near the minimum of the model.

    Returns the point, inside the bounds, and which hyperparameters moved, both of shape (n,).
    """
    chosen = rng.random(len(point)) < PROBABILITY
    near = np.clip(lowest + rng.normal(0.0, SPREAD, len(point)), 0.0, 1.0)
    after: Array = np.where(chosen, near, point)
    return after, chosen
