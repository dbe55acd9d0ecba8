"""Steps of arrays, judged by torch's Adam."""

import numpy as np
import pytest
import torch

from optuna_hypergrad.algorithms import array_descent
from optuna_hypergrad.algorithms.array_descent import BETA1, BETA2, advance, init, retreat

RNG = np.random.default_rng(0)


def test_steps_are_those_of_torchs_adam_on_normalised_gradients() -> None:
    gradients = RNG.normal(size=(12, 7))
    weights = torch.full((7,), 0.5, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([weights], lr=0.01, betas=(BETA1, BETA2))
    state = init(np.full(7, 0.5), 0.01)
    for gradient in gradients:
        weights.grad = torch.from_numpy(gradient / np.sqrt(np.mean(gradient**2)))
        adam.step()
        state = advance(state, gradient)
        np.testing.assert_allclose(state.point, weights.detach().numpy(), rtol=1e-12)


@pytest.mark.parametrize("size", [1e-300, 1.0, 1e200])
def test_the_size_of_a_hypergradient_does_not_matter(size: float) -> None:
    state, other = (init(np.full(4, 0.5)) for _ in range(2))
    for gradient in RNG.normal(size=(5, 4)):
        state, other = advance(state, gradient), advance(other, size * gradient)
    np.testing.assert_allclose(state.point, other.point, rtol=1e-9)


def test_points_stay_within_the_range_and_leave_a_bound_again() -> None:
    state = init(np.array([0.1, 0.9]))
    for _ in range(10):
        state = advance(state, np.array([1.0, -1.0]))
    assert state.point.tolist() == [0.0, 1.0]
    for _ in range(10):
        state = advance(state, np.array([-1.0, 1.0]))
    assert state.point[0] > 0 and state.point[1] < 1


def test_a_zero_hypergradient_moves_nothing() -> None:
    state = advance(init(np.array([0.5, 0.2])), np.zeros(2))
    assert state.point.tolist() == [0.5, 0.2]
    assert state.n_steps == 0


def test_retreats_halve_the_last_move_again_and_again() -> None:
    start = init(np.array([0.5]))
    assert retreat(start) == start
    state = advance(start, np.array([1.0]))
    positions = []
    for _ in range(3):
        state = retreat(state)
        positions.append(float(state.point[0]))
    np.testing.assert_allclose(positions, [0.45, 0.475, 0.4875])
    assert state.step_size == pytest.approx(array_descent.STEP_SIZE / 8)
