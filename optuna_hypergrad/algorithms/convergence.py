"""When a search by sign descent has nothing left to do, and why."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from optuna_hypergrad.algorithms.ranges import Ranges
from optuna_hypergrad.algorithms.sign_descent import State

MOST_ZEROS = 3  # as many in a row settle a hyperparameter; the seed of one run, or two, may be why
MOST_SILENT = 10  # likewise of runs that do not report it; a category may be why, so more of these


class Settled(NamedTuple):
    """Which hyperparameters have settled, and why; each of shape (n,)."""

    small: NDArray[np.bool_]
    """γ has fallen below the tolerance times the range."""
    on_bound: NDArray[np.bool_]
    """It sits on its bound, and its hypergradient points out of it."""
    flat: NDArray[np.bool_]
    """Its hypergradient has been exactly 0 several times in a row."""
    unknown: NDArray[np.bool_]
    """No hypergradient of it has been known for many times in a row."""


def settled(state: State, ranges: Ranges, tolerance: float) -> Settled:
    """Which hyperparameters of a search have settled; ``tolerance`` is a fraction of a range.

    Example:
        >>> from optuna_hypergrad.algorithms.sign_descent import init
        >>> ranges = Ranges(np.array([-1.0, 0.0]), np.array([1.0, 1.0]), np.array([False, False]))
        >>> settled(init(ranges, np.zeros(2), np.array([1e-5, 0.1])), ranges, 1e-3).small
        array([ True, False])
    """
    outwards = state.point - state.step_size * state.sign
    return Settled(
        small=state.step_size <= tolerance * ranges.width,
        on_bound=(state.sign != 0) & (ranges.clip(outwards) == state.point),
        flat=_reaches(state.zeros, MOST_ZEROS, state),
        unknown=_reaches(state.unknown, MOST_SILENT, state),
    )


def has_converged(state: State, ranges: Ranges, tolerance: float) -> bool:
    """Whether every hyperparameter has settled, and the best point need not run again."""
    if state.returning or not len(state.point):
        return False
    return bool(np.all(np.any(settled(state, ranges, tolerance), axis=0)))


def _reaches(count: NDArray[np.int64] | None, most: int, state: State) -> NDArray[np.bool_]:
    return np.zeros(len(state.point), dtype=bool) if count is None else count >= most
