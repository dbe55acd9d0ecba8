"""Descent along the signs of hypergradients, with one step size per hyperparameter.

The outer optimizer of FDS (Algorithm 1), a safeguard around it, and its convergence. State goes
in, state comes out; nothing here depends on the meaning of the hyperparameters.
"""

from __future__ import annotations

import math
from statistics import median_low
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from optuna_hypergrad.algorithms.ranges import Array, Ranges, project_out

Verdict = Literal["accepted", "rejected", "diverged", "measured again"]

MAX_ZEROS = 3  # zeros in a row that settle a hyperparameter; one or two may be due to the seed
MAX_UNKNOWN = 10  # likewise unreported entries; more, since they may be due to a category


class Outcome(NamedTuple):
    """Outcome of one outer step: of a training run, or the mean of several, at one point."""

    point: Array  # where it ran, in search coordinates, shape (n,)
    loss: float  # to be minimised; ignored if the run diverged
    gradient: Array  # hypergradient, shape (n,); NaN where unknown
    diverged: bool = False
    violation: float = 0.0  # total violation of the constraints; 0 if feasible
    restores: bool = False  # whether ``gradient`` is that of the violated constraints, summed


class Accepted(NamedTuple):
    """The best point so far, to which the search returns."""

    point: Array  # shape (n,)
    losses: tuple[float, ...]  # of each run there
    sign: NDArray[np.int8]  # signs of the hypergradients there, shape (n,)
    violations: tuple[float, ...] = (0.0,)  # of the constraints, of each run

    @property
    def loss(self) -> float:
        """Mean loss."""
        return sum(self.losses) / len(self.losses)

    @property
    def violation(self) -> float:
        """Median violation, so that one run does not make a feasible point infeasible."""
        return median_low(self.violations)


class Violated(NamedTuple):
    """The infeasible outcome that a search leaves along its constraints."""

    violation: float
    gradient: Array  # of the violated constraints, in fractions of the ranges, shape (n,)


class State(NamedTuple):
    """State of a search over n hyperparameters."""

    point: Array  # next point to run, in search coordinates, shape (n,)
    step_size: Array  # γ, in search coordinates, shape (n,)
    sign: NDArray[np.int8]  # last non-zero sign of each hypergradient, initially 0, shape (n,)
    zeros: NDArray[np.int64]  # number of zeros in a row of each entry, shape (n,)
    unknown: NDArray[np.int64]  # number of times in a row that each is unknown, shape (n,)
    best: Accepted | None = None
    first_loss: float = math.nan  # of the first feasible outcome that did not diverge
    noise: float | None = None  # spread of the loss at one point, once one has run twice
    remeasures: bool = False  # whether ``point`` is the best one, to be measured again
    violated: Violated | None = None  # the infeasible outcome before ``point``, if any


def init(ranges: Ranges, point: Array, step_size: Array | None = None) -> State:
    """Start a search at ``point`` (search coordinates, shape (n,))."""
    n = len(point)
    gamma = ranges.step_size() if step_size is None else np.asarray(step_size, dtype=float)
    counts = np.zeros(n, dtype=np.int64)
    return State(ranges.clip(point), gamma, np.zeros(n, dtype=np.int8), counts, counts)


def verdict(state: State | None, outcome: Outcome, safeguard: float | None) -> Verdict:
    """Judge an outcome; ``state`` is None until a first one does not diverge.

    A diverged outcome is rejected, and one whose loss exceeds that of the best point by more than
    ``safeguard`` times the progress since the first, and by more than the noise. Scaling or
    shifting the loss changes nothing. The best point itself is rejected only if it diverges.

    As in Optuna's samplers, feasible outcomes are better than infeasible ones, and smaller
    violations better than larger ones. An infeasible outcome is rejected, unless it is on the way
    back to the feasible region, or into it, and its violation is smaller than the last.
    """
    if outcome.diverged:
        return "diverged"
    best = None if state is None else state.best
    if state is None or best is None:
        return "accepted"
    if state.remeasures and np.array_equal(outcome.point, best.point):
        return "measured again"
    if safeguard is None:
        return "accepted"
    violation = best.violation
    if outcome.violation:
        left = math.inf if state.violated is None else state.violated.violation
        is_lost = violation == 0 and not outcome.restores
        return "rejected" if is_lost or outcome.violation >= (violation or left) else "accepted"
    loss = best.loss
    margin = max(safeguard * (state.first_loss - loss), state.noise or 0.0)
    return "rejected" if not violation and outcome.loss > loss + margin else "accepted"


def is_rejected(state: State | None, judged: Verdict, safeguard: float | None) -> bool:
    """Return whether the search returns to the best point after an outcome with this verdict."""
    if judged == "diverged":
        return safeguard is not None and state is not None and state.best is not None
    return judged == "rejected"


def advance(
    state: State,
    outcome: Outcome,
    ranges: Ranges,
    safeguard: float | None = 0.05,
    judged: Verdict | None = None,
) -> State:
    """Take the next outer step.

    The rule of FDS: γ is halved where the sign s of the hypergradient flips against its last
    non-zero sign, then λ ← λ − γ·s, inside the bounds. A zero or NaN entry changes nothing, and
    the last sign is kept.

    Safeguard: after a rejected outcome (see ``verdict``) the search returns to the best point and
    its signs. γ is halved where the hypergradient has flipped against them, or everywhere if none
    has or the outcome diverged. Since the loss of the best point may be low by chance, it is
    measured again before the search leaves it: its loss is then the mean, and the spread is the
    noise. If there is none, later returns do not measure again.

    Constraints: an infeasible outcome with the gradient of the violated constraints is left along
    that gradient until a point is feasible (switching subgradient method, with signs). A flip on
    entering the infeasible region halves no γ, one on leaving it does. The first feasible step
    follows the hypergradient of the loss without its component along the constraint (gradient
    projection), along the bound of the feasible region.

    Args:
        state: State before the outcome.
        outcome: Outcome at the state's point.
        ranges: Bounds of the hyperparameters.
        safeguard: Fraction of the progress that may be lost; None for the rule of FDS alone.
        judged: The ``verdict`` on the outcome, if known already.

    Reference:
        FDS, Algorithm 1 and Section 4, with the authors' product of signs s_o · s_{o−1} < 0 for
        the printed s_o ≠ s_{o−1}, which would also halve at the step from 0 to ±1. Polyak (1967),
        "A general method of solving extremum problems", for the constraints.

    Example:
        >>> ranges = Ranges(np.array([-1.0]), np.array([1.0]), np.array([False]))
        >>> state = init(ranges, np.array([0.0]))
        >>> for _ in range(6):                    # descend (x − 0.25)²
        ...     x = state.point
        ...     gradient = 2 * (x - 0.25)
        ...     state = advance(state, Outcome(x, float((x[0] - 0.25) ** 2), gradient), ranges)
        >>> state.point.round(3), state.step_size
        (array([0.225]), array([0.025]))
    """
    judged = judged or verdict(state, outcome, safeguard)
    counted = _counted(state, outcome)
    if is_rejected(state, judged, safeguard):
        return _back_to_best(counted, outcome, ranges)
    gradient = outcome.gradient
    if state.violated is not None and not outcome.violation and not outcome.diverged:
        gradient = ranges.unit_direction(outcome.point, gradient)
        gradient = project_out(gradient, state.violated.gradient)
    sign = _sign(gradient)
    flips = (sign * state.sign < 0) & ~(outcome.restores and state.violated is None)
    gamma = np.where(flips, state.step_size / 2, state.step_size)  # FDS, Algorithm 1
    violated = None
    if outcome.restores:
        direction = ranges.unit_direction(outcome.point, outcome.gradient)
        violated = Violated(outcome.violation, direction)
    moved = counted._replace(
        point=ranges.clip(outcome.point - gamma * sign),  # FDS, Algorithm 1
        step_size=gamma,
        sign=np.where(sign != 0, sign, state.sign),
        remeasures=False,
        violated=violated,
    )
    return moved if judged == "diverged" else _with_loss(moved, outcome, judged)


def _back_to_best(state: State, outcome: Outcome, ranges: Ranges) -> State:
    assert state.best is not None
    point, sign = state.best.point, state.best.sign
    too_far = _sign(outcome.gradient) * sign < 0
    is_unattributed = outcome.violation > 0 and not outcome.restores  # to any hyperparameter
    if outcome.diverged or is_unattributed or not too_far.any():
        too_far[:] = True
    gamma = np.where(too_far, state.step_size / 2, state.step_size)
    remeasures = state.noise != 0.0
    return state._replace(
        point=point if remeasures else ranges.clip(point - gamma * sign),
        step_size=gamma,
        sign=sign,
        remeasures=remeasures,
        violated=None,
    )


def _with_loss(moved: State, outcome: Outcome, judged: Verdict) -> State:
    """Update the best point, the first loss and the noise from the loss of an outcome."""
    best, first = moved.best, moved.first_loss
    if best is not None and judged == "measured again":
        losses = (*best.losses, outcome.loss)
        violations = (*best.violations, outcome.violation)
        best = Accepted(best.point, losses, moved.sign, violations)
        return moved._replace(best=best, noise=float(np.std(losses, ddof=1)))
    if best is None or (outcome.violation, outcome.loss) < (best.violation, best.loss):
        best = Accepted(outcome.point, (outcome.loss,), moved.sign, (outcome.violation,))
    if math.isnan(first) and not outcome.violation:
        first = outcome.loss
    return moved._replace(best=best, first_loss=first)


def _counted(state: State, outcome: Outcome) -> State:
    """Count zero and unknown entries; the gradient of constraints says nothing of the loss."""
    if outcome.diverged:
        return state
    is_known, one = np.isfinite(outcome.gradient), 0 if outcome.restores else 1
    unknown = np.where(is_known, 0, state.unknown + one)
    if outcome.restores:
        return state._replace(unknown=unknown)
    zeros = np.where(outcome.gradient == 0, state.zeros + 1, 0)
    return state._replace(unknown=unknown, zeros=np.where(is_known, zeros, state.zeros))


def _sign(gradient: Array) -> NDArray[np.int8]:
    """Return the signs, 0 where the gradient is unknown."""
    return np.sign(np.where(np.isfinite(gradient), gradient, 0.0)).astype(np.int8)


class Settled(NamedTuple):
    """Which hyperparameters have settled, by reason; each of shape (n,)."""

    small: NDArray[np.bool_]
    """γ is at most the tolerance times the range."""
    on_bound: NDArray[np.bool_]
    """It is at a bound, and descent would leave the range."""
    flat: NDArray[np.bool_]
    """Its hypergradient was exactly 0 several times in a row."""
    unknown: NDArray[np.bool_]
    """Its hypergradient was unknown many times in a row."""


def settled(state: State, ranges: Ranges, tolerance: float) -> Settled:
    """Return which hyperparameters have settled; ``tolerance`` is a fraction of the range.

    Example:
        >>> ranges = Ranges(np.array([-1.0, 0.0]), np.array([1.0, 1.0]), np.array([False, False]))
        >>> settled(init(ranges, np.zeros(2), np.array([1e-5, 0.1])), ranges, 1e-3).small
        array([ True, False])
    """
    next_point = ranges.clip(state.point - state.step_size * state.sign)
    return Settled(
        small=state.step_size <= tolerance * ranges.width,
        on_bound=(state.sign != 0) & (next_point == state.point),
        flat=state.zeros >= MAX_ZEROS,
        unknown=state.unknown >= MAX_UNKNOWN,
    )


def has_converged(state: State, ranges: Ranges, tolerance: float) -> bool:
    """Return whether all hyperparameters have settled, and the best point need not run again."""
    if state.remeasures or not len(state.point):
        return False
    return bool(np.all(np.any(settled(state, ranges, tolerance), axis=0)))
