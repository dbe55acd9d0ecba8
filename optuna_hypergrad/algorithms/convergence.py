"""When a search by sign descent has nothing left to do."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from optuna_hypergrad.algorithms.ranges import Ranges
from optuna_hypergrad.algorithms.sign_descent import State

MOST_ZEROS = 3  # as many in a row settle a hyperparameter; the seed of one run, or two, may be why


def has_converged(state: State, ranges: Ranges, tolerance: float) -> bool:
    """Whether every hyperparameter has settled.

    One has where its γ has fallen below ``tolerance`` times its range, where it sits on its bound
    and its hypergradient points out of it, or where its hypergradient has been exactly 0 several
    times in a row.
    """
    if state.returning or not len(state.point):
        return False
    outwards = state.point - state.step_size * state.sign
    on_bound = (state.sign != 0) & (ranges.clip(outwards) == state.point)
    is_small = state.step_size <= tolerance * ranges.width
    return bool(np.all(on_bound | is_small | _is_flat(state)))


def is_stationary(state: State) -> bool:
    """Whether all hypergradients have been exactly 0 several times in a row: no move is known."""
    return len(state.point) > 0 and not state.returning and bool(np.all(_is_flat(state)))


def _is_flat(state: State) -> NDArray[np.bool_]:
    """Where the hypergradient has been 0 so often in a row that it will stay so."""
    if state.zeros is None:
        return np.zeros(len(state.point), dtype=bool)
    return state.zeros >= MOST_ZEROS
