"""The model of losses that mutation follows."""

import numpy as np
import pytest

from optuna_hypergrad.algorithms import quadratic

TARGET = np.array([0.2, 0.7, 0.5])


def bowl(u: np.ndarray) -> np.ndarray:
    return ((u - TARGET) ** 2).sum(axis=1)


def test_it_finds_the_bowl_under_ripples() -> None:
    u = np.random.default_rng(0).random((80, 3))
    ripples = 0.2 * np.cos(60 * u).sum(axis=1)
    assert np.abs(quadratic.minimum(u, bowl(u) + ripples) - TARGET).max() < 0.15


@pytest.mark.parametrize("n", [2, 5, 7])
def test_few_points_are_enough_for_a_direction(n: int) -> None:
    """With fewer points than coefficients, the smaller system gives the same ridge regression."""
    u = np.random.default_rng(1).random((n, 3))
    z = 2 * u - 1
    features = np.hstack([z, z**2]) - np.hstack([z, z**2]).mean(axis=0)
    loss = bowl(u) - bowl(u).mean()
    penalized = np.vstack([features, np.sqrt(quadratic.RIDGE * n) * np.eye(6)])
    weights, *_ = np.linalg.lstsq(penalized, np.concatenate([loss, np.zeros(6)]), rcond=None)
    lowest = 2 * quadratic.minimum(u, bowl(u)) - 1
    grid = np.linspace(z.min(axis=0), z.max(axis=0), 2001)
    expected = grid[(weights[:3] * grid + weights[3:] * grid**2).argmin(axis=0), range(3)]
    assert lowest == pytest.approx(expected, abs=2e-3)


def test_it_does_not_extrapolate() -> None:
    u = 0.4 + 0.2 * np.random.default_rng(2).random((40, 2))
    slope = u[:, 0] - u[:, 1]
    assert quadratic.minimum(u, slope) == pytest.approx([u[:, 0].min(), u[:, 1].max()])


def test_about_half_of_the_parameters_move_near_it() -> None:
    rng, lowest = np.random.default_rng(3), np.full(2000, 0.99)
    point, moved = quadratic.moved(np.full(2000, 0.1), lowest, rng)
    assert 900 < moved.sum() < 1100
    assert (point[~moved] == 0.1).all() and (point[moved] > 0.7).all() and point.max() == 1.0
