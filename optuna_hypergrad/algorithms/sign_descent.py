"""Descent along the signs of hypergradients, with one step size per hyperparameter.

The outer optimizer of FDS (Algorithm 1), and a safeguard around it. State goes in, state comes
out; nothing here knows what the hyperparameters mean.
"""

from __future__ import annotations

import math
from statistics import median_low
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from optuna_hypergrad.algorithms.ranges import Array, Ranges, by_fractions, projected

Verdict = Literal["accepted", "rejected", "diverged", "measured again"]


class Outcome(NamedTuple):
    """What came of one outer step: a training run, or the mean of several, at one point."""

    point: Array  # where it really ran, in search coordinates, shape (n,)
    loss: float  # to be minimised; not read where the run diverged
    gradient: Array  # hypergradient, shape (n,); an entry that is NaN says nothing
    diverged: bool = False
    violation: float = 0.0  # total violation of its constraints; 0 where it is feasible
    restores: bool = False  # whether ``gradient`` is that of the violated constraints, summed


class Accepted(NamedTuple):
    """The point to come back to."""

    point: Array  # shape (n,)
    losses: tuple[float, ...]  # of each time that it ran
    sign: NDArray[np.int8]  # signs to leave it by, shape (n,)
    violations: tuple[float, ...] = (0.0,)  # of its constraints, likewise

    @property
    def loss(self) -> float:
        """Mean loss."""
        return sum(self.losses) / len(self.losses)

    @property
    def violation(self) -> float:
        """The median, so that one run does not make a feasible point infeasible."""
        return median_low(self.violations)


class Violated(NamedTuple):
    """The infeasible outcome that a search is leaving along its constraints."""

    violation: float
    gradient: Array  # of the violated constraints, by fractions of the ranges, shape (n,)


class State(NamedTuple):
    """State of one search over n hyperparameters."""

    point: Array  # the next point to run, in search coordinates, shape (n,)
    step_size: Array  # γ, in search coordinates, shape (n,)
    sign: NDArray[np.int8]  # last non-zero sign of each hypergradient, 0 before, shape (n,)
    best: Accepted | None = None
    first_loss: float = float("nan")  # of the first feasible outcome that did not diverge
    noise: float | None = None  # spread of the loss at one point, once one has run twice
    returning: bool = False  # whether ``point`` is the best one, to be measured again
    violated: Violated | None = None  # what ``point`` leads away from, if it was infeasible
    zeros: NDArray[np.int64] | None = None  # how often in a row each entry was 0, shape (n,)
    unknown: NDArray[np.int64] | None = None  # how often in a row each was unknown, shape (n,)


def init(ranges: Ranges, point: Array, step_size: Array | None = None) -> State:
    """A search that starts at ``point`` (search coordinates, shape (n,))."""
    gamma = ranges.step_size() if step_size is None else np.asarray(step_size, dtype=float)
    return State(ranges.clip(point), gamma, np.zeros(len(point), dtype=np.int8))


def advance(
    state: State,
    outcome: Outcome,
    ranges: Ranges,
    safeguard: float | None = 0.05,
) -> State:
    """The next outer step.

    The paper's rule: γ is halved where the sign s of the hypergradient flips against its last
    non-zero sign, then λ ← λ − γ·s, inside the bounds. A zero or NaN entry moves nothing and
    forgets nothing.

    The safeguard: see ``is_rejected``. From a rejected outcome the search goes back to the best
    point with the signs found there; γ is halved where the hypergradient has turned against them,
    or everywhere where none has or the outcome diverged. The best point may owe its loss to luck,
    so it runs once more before the search leaves it: its loss is then the mean, and the spread is
    what the search takes for noise. Where there is none, it does not run again.

    Constraints: an infeasible outcome whose gradient is that of the violated constraints is left
    along it until a point is feasible again (the switching subgradient method, with signs). To
    turn round at a constraint halves no γ; what flips when the search is back does. The first step
    from there follows the hypergradient of the loss without its part along that constraint
    (gradient projection), so that the search moves along the bound of the feasible region. An
    infeasible outcome without such a gradient, or no nearer to feasibility, is rejected.

    Args:
        state: State before the outcome.
        outcome: What came of the point that ran.
        ranges: Bounds of the hyperparameters.
        safeguard: Fraction of the progress that may be lost; None for the paper's rule alone.

    Returns:
        The state whose ``point`` is to run next.

    Reference:
        FDS, Algorithm 1 and Section 4, with the product of signs (as the authors compute) for the
        printed s_o ≠ s_{o−1}, which would also halve at the step from 0 to ±1. Polyak (1967), "A
        general method of solving extremum problems", for the constraints.

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
    if is_rejected(state, outcome, safeguard):
        return _back_to_best(state, outcome, ranges)
    sign = _sign(_followed(state, outcome, ranges))
    flips = (sign * state.sign < 0) & ~(outcome.restores and state.violated is None)
    gamma = np.where(flips, state.step_size / 2, state.step_size)
    moved = state._replace(
        point=ranges.clip(outcome.point - gamma * sign),
        step_size=gamma,
        sign=np.where(sign != 0, sign, state.sign),
        returning=False,
        violated=_violated(outcome, ranges),
        zeros=_zeros(state, outcome),
        unknown=_unknown(state, outcome),
    )
    return moved if outcome.diverged else _measured(state, moved, outcome)


def verdict(state: State | None, outcome: Outcome, safeguard: float | None) -> Verdict:
    """What becomes of an outcome; ``state`` is None before the first that did not diverge."""
    if outcome.diverged:
        return "diverged"
    if state is None or not is_rejected(state, outcome, safeguard):
        again = state is not None and _runs_best_again(state, outcome)
        return "measured again" if again else "accepted"
    return "rejected"


def is_rejected(state: State | None, outcome: Outcome, safeguard: float | None) -> bool:
    """Whether the search does not go on from an outcome.

    That is so if it diverged, or if its loss exceeds that of the best point by more than
    ``safeguard`` times the progress made since the first, and by more than the noise. Scaling or
    shifting the loss changes nothing. The best point itself is only rejected if it diverges.

    Feasible outcomes are better than infeasible ones, of which the smaller violation is better, as
    to Optuna's samplers. An infeasible outcome is rejected, but for one on its way back from
    where the search left the feasible region, or into it: such a one must be nearer than the last.
    """
    if safeguard is None or state is None or state.best is None:
        return False
    if outcome.diverged or _runs_best_again(state, outcome):
        return outcome.diverged
    if outcome.violation:
        lost = state.best.violation == 0 and not outcome.restores
        left = math.inf if state.violated is None else state.violated.violation
        return lost or outcome.violation >= (state.best.violation or left)
    if state.best.violation:
        return False
    progress = state.first_loss - state.best.loss
    return outcome.loss > state.best.loss + max(safeguard * progress, state.noise or 0.0)


def _back_to_best(state: State, outcome: Outcome, ranges: Ranges) -> State:
    assert state.best is not None
    point, sign = state.best.point, state.best.sign
    too_far = _sign(outcome.gradient) * sign < 0
    is_blind = outcome.violation > 0 and not outcome.restores  # which of them went too far?
    if outcome.diverged or is_blind or not too_far.any():
        too_far[:] = True
    gamma = np.where(too_far, state.step_size / 2, state.step_size)
    again = state.noise != 0.0
    return state._replace(
        point=point if again else ranges.clip(point - gamma * sign),
        step_size=gamma,
        sign=sign,
        returning=again,
        violated=None,
        zeros=_zeros(state, outcome),
        unknown=_unknown(state, outcome),
    )


def _runs_best_again(state: State, outcome: Outcome) -> bool:
    best = state.best
    return state.returning and best is not None and np.array_equal(outcome.point, best.point)


def _measured(state: State, moved: State, outcome: Outcome) -> State:
    """``moved`` with what the outcome's loss says about the best point."""
    best, first = state.best, state.first_loss
    if best is not None and _runs_best_again(state, outcome):
        losses = (*best.losses, outcome.loss)
        violations = (*best.violations, outcome.violation)
        return moved._replace(
            best=Accepted(best.point, losses, moved.sign, violations),
            noise=float(np.std(losses, ddof=1)),
        )
    found = (outcome.violation, outcome.loss)
    if best is None or found < (best.violation, best.loss):
        best = Accepted(outcome.point, (outcome.loss,), moved.sign, (outcome.violation,))
    if np.isnan(first) and not outcome.violation:
        first = outcome.loss
    return moved._replace(best=best, first_loss=first)


def _followed(state: State, outcome: Outcome, ranges: Ranges) -> Array:
    """The gradient whose signs the search moves against, shape (n,)."""
    if state.violated is None or outcome.violation or outcome.diverged:
        return outcome.gradient
    own = by_fractions(outcome.point, outcome.gradient, ranges)
    return projected(own, state.violated.gradient)


def _violated(outcome: Outcome, ranges: Ranges) -> Violated | None:
    if not outcome.restores:
        return None
    gradient = by_fractions(outcome.point, outcome.gradient, ranges)
    return Violated(outcome.violation, gradient)


def _zeros(state: State, outcome: Outcome) -> NDArray[np.int64]:
    before = np.zeros(len(state.point), dtype=np.int64) if state.zeros is None else state.zeros
    if outcome.diverged or outcome.restores:
        return before
    known = np.isfinite(outcome.gradient)
    return np.where(known, np.where(outcome.gradient == 0, before + 1, 0), before)


def _unknown(state: State, outcome: Outcome) -> NDArray[np.int64]:
    before = np.zeros(len(state.point), dtype=np.int64) if state.unknown is None else state.unknown
    if outcome.diverged:
        return before
    more = 0 if outcome.restores else 1  # of the loss it says nothing
    return np.where(np.isfinite(outcome.gradient), 0, before + more)


def _sign(gradient: Array) -> NDArray[np.int8]:
    """Sign by entry, 0 where it is zero or unknown."""
    return np.sign(np.where(np.isfinite(gradient), gradient, 0.0)).astype(np.int8)
