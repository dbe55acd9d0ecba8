"""Descent of an array of hyperparameters along hypergradients of whole trainings.

Adam on normalised hypergradients, in fractions of the range. State goes in, state comes out.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from optuna_hypergrad.algorithms.ranges import Array

STEP_SIZE = 0.1  # of the range: about ten trials from one bound to the other
BETA1, BETA2 = 0.8, 0.9  # short memories, since a search has tens of trials
EPS = 1e-8


class State(NamedTuple):
    """State of a search over an array of n entries, in fractions of the range."""

    point: Array  # next point to run, shape (n,)
    step_size: float
    first_moment: Array  # of the normalised hypergradients, shape (n,)
    second_moment: Array
    n_steps: int = 0
    sound: Array | None = None  # the last point whose run did not diverge


def init(point: Array, step_size: float = STEP_SIZE) -> State:
    """Start a search at ``point``, shape (n,)."""
    zeros = np.zeros(len(point))
    return State(point, step_size, zeros, zeros)


def advance(state: State, gradient: Array) -> State:
    """Take a step against a hypergradient.

    A hypergradient is first divided by the root of its mean square: between trainings its size
    varies by orders of magnitude, where training is chaotic, and says nothing of the distance
    to the minimum.

    Args:
        state: State before the step.
        gradient: Finite hypergradient by fractions of the range, shape (n,); zero moves nothing.

    Returns:
        The state, its point within [0, 1].

    Reference:
        Kingma & Ba (2015), "Adam: A Method for Stochastic Optimization", Algorithm 1.

    Example:
        >>> state, target = init(np.array([0.5, 0.5, 0.5])), np.array([0.0, 0.7, 1.0])
        >>> for _ in range(30):
        ...     state = advance(state, state.point - target)
        >>> state.point.round(1)
        array([0. , 0.7, 1. ])
    """
    largest = np.abs(gradient).max(initial=0.0)
    if largest == 0:
        return state._replace(sound=state.point)
    scaled = gradient / largest  # whose square cannot overflow
    g = scaled / np.sqrt(np.mean(scaled**2))
    t = state.n_steps + 1
    m = BETA1 * state.first_moment + (1 - BETA1) * g
    v = BETA2 * state.second_moment + (1 - BETA2) * g**2
    unbiased_m, unbiased_v = m / (1 - BETA1**t), v / (1 - BETA2**t)
    move = state.step_size * unbiased_m / (np.sqrt(unbiased_v) + EPS)
    return State(np.clip(state.point - move, 0.0, 1.0), state.step_size, m, v, t, state.point)


def retreat(state: State) -> State:
    """Halve the last move and the step size, since the run at the point has diverged.

    Nothing changes before a first run that did not diverge.

    Example:
        >>> state = retreat(advance(init(np.array([0.5])), np.array([1.0])))
        >>> state.point, state.step_size
        (array([0.45]), 0.05)
    """
    if state.sound is None:
        return state
    middle = (state.sound + state.point) / 2
    return state._replace(point=middle, step_size=state.step_size / 2)
