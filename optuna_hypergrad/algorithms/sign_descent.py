"""Descent along the signs of hypergradients, with one step size per hyperparameter.

The outer optimizer of FDS (Algorithm 1), and a safeguard around it. State goes in, state comes
out; nothing here knows what the hyperparameters mean.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from optuna_hypergrad.algorithms.ranges import Array, Ranges


class Outcome(NamedTuple):
    """What came of one outer step: a training run, or the mean of several, at one point."""

    point: Array  # where it really ran, in search coordinates, shape (n,)
    loss: float  # to be minimised; not read where the run diverged
    gradient: Array  # hypergradient, shape (n,); an entry that is NaN says nothing
    diverged: bool = False


class Accepted(NamedTuple):
    """An outcome to come back to."""

    point: Array  # shape (n,)
    loss: float
    sign: NDArray[np.int8]  # signs to leave it by, shape (n,)


class State(NamedTuple):
    """State of one search over n hyperparameters."""

    point: Array  # the next point to run, in search coordinates, shape (n,)
    step_size: Array  # γ, in search coordinates, shape (n,)
    sign: NDArray[np.int8]  # last non-zero sign of each hypergradient, 0 before, shape (n,)
    best: Accepted | None = None
    first_loss: float = float("nan")  # of the first outcome that did not diverge
    rejected: bool = False  # whether the last outcome was


def init(ranges: Ranges, point: Array, step_size: Array | None = None) -> State:
    """A search that starts at ``point`` (search coordinates, shape (n,))."""
    gamma = ranges.step_size() if step_size is None else np.asarray(step_size, dtype=float)
    return State(ranges.clip(point), gamma, np.zeros(len(point), dtype=np.int8))


def advance(
    state: State, outcome: Outcome, ranges: Ranges, safeguard: float | None = 0.05
) -> State:
    """The next outer step.

    The paper's rule: γ is halved where the sign s of the hypergradient flips against its last
    non-zero sign, then λ ← λ − γ·s, inside the bounds. A zero or NaN entry moves nothing and
    forgets nothing.

    The safeguard: an outcome that diverged, or whose loss exceeds that of the best accepted one
    by more than ``safeguard`` times the progress made since the first, is rejected. The search
    goes back to the best point with the signs found there, and takes half a step where the
    hypergradient has turned against them, or everywhere where none has or the outcome diverged.
    Scaling or shifting the loss changes nothing.

    Args:
        state: State before the outcome.
        outcome: What came of the point that ran.
        ranges: Bounds of the hyperparameters.
        safeguard: Fraction of the progress that may be lost; None for the paper's rule alone.

    Returns:
        The state whose ``point`` is to run next.

    Reference:
        FDS, Algorithm 1 and Section 4, with the product of signs (as the authors compute) for the
        printed s_o ≠ s_{o−1}, which would also halve at the step from 0 to ±1.

    Example:
        >>> ranges = Ranges(np.array([-1.0]), np.array([1.0]), np.array([False]))
        >>> state = init(ranges, np.array([0.0]))
        >>> for _ in range(6):                    # descend (x − 0.25)²
        ...     x = state.point
        ...     slope = 2 * (x - 0.25)
        ...     state = advance(state, Outcome(x, float((x[0] - 0.25) ** 2), slope), ranges)
        >>> state.point.round(3), state.step_size
        (array([0.225]), array([0.025]))
    """
    if safeguard is not None and _is_rejected(state, outcome, safeguard):
        return _back_to_best(state, outcome, ranges)
    sign = _sign(outcome.gradient)
    gamma = np.where(sign * state.sign < 0, state.step_size / 2, state.step_size)
    memory = np.where(sign != 0, sign, state.sign)
    moved = state._replace(
        point=ranges.clip(outcome.point - gamma * sign),
        step_size=gamma,
        sign=memory,
        rejected=False,
    )
    return moved if outcome.diverged else _with_loss(moved, outcome)


def has_converged(state: State, ranges: Ranges, tolerance: float) -> bool:
    """Whether every γ has fallen below ``tolerance`` times its range."""
    return bool(np.all(state.step_size < tolerance * ranges.width))


def _is_rejected(state: State, outcome: Outcome, safeguard: float) -> bool:
    if state.best is None:
        return False
    progress = state.first_loss - state.best.loss
    return outcome.diverged or outcome.loss > state.best.loss + safeguard * progress


def _back_to_best(state: State, outcome: Outcome, ranges: Ranges) -> State:
    assert state.best is not None
    point, _, sign = state.best
    too_far = _sign(outcome.gradient) * sign < 0
    if outcome.diverged or not too_far.any():
        too_far[:] = True
    gamma = np.where(too_far, state.step_size / 2, state.step_size)
    return state._replace(
        point=ranges.clip(point - gamma * sign), step_size=gamma, sign=sign, rejected=True
    )


def _sign(gradient: Array) -> NDArray[np.int8]:
    """Sign by entry, 0 where it is zero or unknown."""
    return np.sign(np.nan_to_num(gradient, nan=0.0)).astype(np.int8)


def _with_loss(state: State, outcome: Outcome) -> State:
    first = outcome.loss if np.isnan(state.first_loss) else state.first_loss
    better = state.best is None or outcome.loss < state.best.loss
    best = Accepted(outcome.point, outcome.loss, state.sign) if better else state.best
    return state._replace(best=best, first_loss=first)
