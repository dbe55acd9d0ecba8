"""Refinement: resilient propagation inside the unit box."""

import numpy as np

from optuna_hypergrad.algorithms import refinement
from optuna_hypergrad.algorithms.refinement import FIRST_STEP, LONGEST_STEP, RpropState


def test_steps_grow_while_the_sign_stays_and_halve_when_it_flips() -> None:
    point, state = np.array([0.5]), refinement.init(1)
    sizes = []
    for gradient in (1.0, 2.0, 0.1, -1.0, -1.0):
        point, state = refinement.descend(point, np.array([gradient]), state)
        sizes.append(float(state.step_size[0]) / FIRST_STEP)
    assert np.allclose(sizes, [1, 1.2, 1.44, 0.72, 0.864])
    assert np.isclose(point[0], 0.5 + FIRST_STEP * (-1 - 1.2 - 1.44 + 0.72 + 0.864))


def test_zero_and_nan_move_nothing_and_keep_the_last_sign() -> None:
    state = RpropState(np.array([0.1, 0.1]), np.array([1.0, -1.0]))
    point, after = refinement.descend(np.array([0.5, 0.5]), np.array([0.0, np.nan]), state)
    assert np.array_equal(point, [0.5, 0.5])
    assert np.array_equal(after.step_size, state.step_size)
    assert np.array_equal(after.sign, state.sign)


def test_points_stay_in_the_box_and_steps_below_the_longest() -> None:
    point, state = np.array([0.5, 0.5]), refinement.init(2)
    for _ in range(50):
        point, state = refinement.descend(point, np.array([1.0, -1.0]), state)
    assert np.array_equal(point, [0.0, 1.0])
    assert np.array_equal(state.step_size, [LONGEST_STEP, LONGEST_STEP])


def test_a_minimum_that_moves_is_followed() -> None:
    point, state = np.array([0.1]), refinement.init(1)
    for step in range(400):
        target = 0.2 if step < 200 else 0.8
        point, state = refinement.descend(point, point - target, state)
        if step in (199, 299):
            assert abs(point[0] - target) < 0.02
