"""Descent of an array of hyperparameters along hypergradients of whole trainings.

Adam on normalised hypergradients, in fractions of the range, which goes back to the best point when
steps do not help. State goes in, state comes out. ``smoothed`` tells good points from lucky
ones.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from optuna_hypergrad.algorithms.loss_scale import CEILING
from optuna_hypergrad.algorithms.ranges import Array

STEP_SIZE = 0.2  # of the range; an entry with a hypergradient of average size moves half of it
BETA1, BETA2 = 0.8, 0.9  # short memories, since a search has tens of trials
EPS = 1.0  # of Adam, as large as an average hypergradient: what is smaller may be noise
PATIENCE = 2  # outcomes in a row that are worse than the best one
MAX_RETURNS = 3  # for that reason: where losses are noise, they would end the search


class Outcome(NamedTuple):
    """Outcome of a training run, or the mean of several, at one point."""

    point: Array  # fractions of the range, shape (n,)
    loss: float  # to be minimised; NaN if unknown
    gradient: Array | None  # finite, by fractions of the range, shape (n,); None if it diverged
    n_runs: int = 1


class Moments(NamedTuple):
    """Running means of normalised hypergradients and of their squares, each of shape (n,)."""

    first: Array
    second: Array
    n_steps: int = 0

    @property
    def direction(self) -> Array:
        """The step of Adam, for a step size of 1."""
        m = self.first / (1 - BETA1**self.n_steps)
        v = self.second / (1 - BETA2**self.n_steps)
        return m / (np.sqrt(v) + EPS)


class Best(NamedTuple):
    """The best point so far, to which the search returns."""

    point: Array
    loss: float
    moments: Moments  # with its own hypergradient
    n_runs: int


class State(NamedTuple):
    """State of a search over an array of n entries."""

    point: Array  # next point to run, in fractions of the range, shape (n,)
    step_size: float
    moments: Moments
    best: Best | None = None
    n_worse: int = 0  # outcomes in a row that were worse than the best one
    n_returns: int = 0  # to the best point for that reason


def init(point: Array, step_size: float = STEP_SIZE) -> State:
    """Start a search at ``point``, shape (n,)."""
    return State(point, step_size, Moments(np.zeros(len(point)), np.zeros(len(point))))


def advance(state: State, outcome: Outcome) -> State:
    """Take a step of Adam from the point of an outcome, or from the best point.

    A hypergradient is first divided by the root of its mean square: between trainings its size
    varies by orders of magnitude, where training is chaotic, and says nothing of the distance to
    the minimum.

    If the run has diverged, or two outcomes in a row were worse than the best one, the search
    returns to the best point. For the second reason, a point that ran only once runs again first,
    since its loss may have been low by chance. Then the search leaves it by a step half as long.
    After three such steps for the second reason, losses do not matter any more.

    Args:
        state: State before the step.
        outcome: Outcome at the state's point, or at another one.

    Returns:
        The state, its point within [0, 1].

    Reference:
        Kingma & Ba (2015), "Adam: A Method for Stochastic Optimization", Algorithm 1.

    Example:
        >>> state, target = init(np.array([0.5, 0.5, 0.5])), np.array([0.0, 0.7, 1.0])
        >>> for _ in range(20):
        ...     x = state.point
        ...     state = advance(state, Outcome(x, float(((x - target) ** 2).sum()), x - target))
        >>> bool(abs(state.best.point - target).max() < 0.05)
        True
    """
    if outcome.gradient is None:
        return _back(state)
    moments = _updated(state.moments, outcome.gradient)
    best, loss, n_worse = state.best, outcome.loss, state.n_worse + 1
    # Ties are progress, too: of accuracies, say. Without losses, the last point is the best.
    if best is None or math.isnan(best.loss) or loss <= best.loss:
        best, n_worse = Best(outcome.point, loss, moments, outcome.n_runs), 0
    elif n_worse >= PATIENCE and state.n_returns < MAX_RETURNS:
        if best.n_runs == 1:
            return state._replace(point=best.point, moments=best.moments, n_worse=0)
        return _back(state)._replace(n_returns=state.n_returns + 1)
    return state._replace(
        point=np.clip(outcome.point - state.step_size * moments.direction, 0.0, 1.0),
        moments=moments,
        best=best,
        n_worse=n_worse,
    )


def _back(state: State) -> State:
    """Half a step from the best point; nothing if there is none."""
    best, half = state.best, state.step_size / 2
    if best is None:
        return state
    point = np.clip(best.point - half * best.moments.direction, 0.0, 1.0)
    return state._replace(point=point, step_size=half, moments=best.moments, n_worse=0)


def _updated(moments: Moments, gradient: Array) -> Moments:
    scaled = gradient / (np.abs(gradient).max(initial=0.0) or 1.0)  # its square cannot overflow
    g = scaled / (np.sqrt(np.mean(scaled**2)) or 1.0)
    return Moments(
        BETA1 * moments.first + (1 - BETA1) * g,
        BETA2 * moments.second + (1 - BETA2) * g**2,
        moments.n_steps + 1,
    )


def smoothed(points: Array, losses: Array) -> Array:
    """Losses averaged over neighbours: of a noisy search, the smallest is a matter of luck.

    Neighbours count by a normal density of their distance, with the median distance of successive
    points as its standard deviation. Losses have a ceiling, three times as far from the best as the
    median, so that a run that diverged is bad and no more than that.

    Args:
        points: In the order of the search, shape (n, d).
        losses: Shape (n,); infinite where a run diverged, and finite for one at least.

    Returns:
        The averages, shape (n,).

    Reference:
        Nadaraya (1964), "On Estimating Regression".

    Example:
        >>> points = np.array([[0.0], [0.1], [0.2], [0.3], [0.4]])
        >>> smoothed(points, np.array([1.0, 0.0, np.inf, 0.2, 0.2])).argmin().item()
        4
    """
    centred = points - points.mean(axis=0)
    products = centred @ centred.T  # no (n, n, d) array of differences
    squares = np.diag(products)[:, None] + np.diag(products) - 2 * products
    squares = np.where(squares > 1e-12 * squares.max(initial=0.0), squares, 0.0)
    steps = np.sqrt(np.diag(squares, k=1))
    scale = float(np.median(steps[steps > 0])) if (steps > 0).any() else 1.0
    weights = np.exp(-0.5 * squares / scale**2)
    best, median = losses.min(), np.median(losses[np.isfinite(losses)])
    capped = np.minimum(losses, best + CEILING * (median - best))
    return np.asarray(weights @ capped / weights.sum(axis=1))
