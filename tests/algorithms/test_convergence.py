"""When a search ends: what settles a hyperparameter."""

import numpy as np
import pytest

from optuna_hypergrad.algorithms import sign_descent
from optuna_hypergrad.algorithms.convergence import MOST_SILENT, MOST_ZEROS, has_converged, settled
from optuna_hypergrad.algorithms.ranges import Array, Ranges
from optuna_hypergrad.algorithms.sign_descent import Outcome, State

NAN = float("nan")


def box(n: int) -> Ranges:
    return Ranges(-np.ones(n), np.ones(n), np.zeros(n, dtype=bool))


def tell(state: State, gradient: list[float], loss: float = 1.0, **of: float) -> State:
    outcome = Outcome(state.point, loss, np.array(gradient), **of)  # type: ignore[arg-type]
    return sign_descent.advance(state, outcome, box(len(gradient)))


@pytest.fixture
def state() -> State:
    return sign_descent.init(box(2), np.zeros(2))


def test_zeros_in_a_row_settle(state: State) -> None:
    for count in range(MOST_ZEROS):
        assert not has_converged(state, box(2), 1e-3), count
        state = tell(state, [0.0, 0.0])
    assert has_converged(state, box(2), 1e-3)
    assert settled(state, box(2), 1e-3).flat.all()


def test_a_slope_in_between_unsettles(state: State) -> None:
    for slope in (0.0, 0.0, 1.0, 0.0, 0.0):
        state = tell(state, [0.0, slope], loss=1.0 - abs(slope))
    assert [*settled(state, box(2), 1e-3).flat] == [True, False]


def test_what_is_unknown_or_of_a_constraint_is_no_zero(state: State) -> None:
    for _ in range(5):
        state = tell(state, [NAN, NAN])
    for violation in (3.0, 2.0, 1.0):
        state = tell(state, [0.0, 1.0], violation=violation, restores=True)
    assert not settled(state, box(2), 1e-3).flat.any()


def test_what_stays_unknown_settles_in_the_end(state: State) -> None:
    for count in range(MOST_SILENT):
        assert not settled(state, box(2), 1e-3).unknown.any(), count
        state = tell(state, [NAN, 1.0 if count else NAN])
    assert [*settled(state, box(2), 1e-3).unknown] == [True, False]
    state = tell(state, [1.0, NAN], violation=1.0, restores=True)
    assert not settled(state, box(2), 1e-3).unknown.any()


def test_zeros_count_where_noise_rejects_and_measures_again(state: State) -> None:
    for loss in (1.0, 1.2, 1.1, 0.9, 1.3, 1.0):
        state = tell(state, [0.0, 0.0], loss)
    assert settled(state, box(2), 1e-3).flat.all()


def test_the_step_back_from_a_constraint_goes_along_it() -> None:
    """Judged by the gradient of the loss on the bound: its derivative along x + y = 0.5."""
    ranges = Ranges(-np.ones(2), np.ones(2) * 3, np.zeros(2, dtype=bool))  # fractions are alike
    target = np.array([0.9, 0.3])

    def at(point: Array) -> Outcome:
        excess = max(float(point.sum()) - 0.5, 0.0)
        slope = np.ones(2) if excess else 2 * (point - target)
        loss = float(np.sum((point - target) ** 2))
        return Outcome(point, loss, slope, violation=excess, restores=excess > 0)

    state = sign_descent.init(ranges, np.array([-0.5, 0.3]))
    for is_out in (False, True):
        while (state.point.sum() > 0.5) == is_out:
            state = sign_descent.advance(state, at(state.point), ranges)
    before = state.point
    state = sign_descent.advance(state, at(before), ranges)
    moved = state.point - before
    along = np.array([1.0, -1.0])
    uphill = 2 * (before - target) @ along
    np.testing.assert_array_equal(np.sign(moved), -np.sign(uphill) * along)
