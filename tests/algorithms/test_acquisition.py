"""Expected improvement and its maximum."""

import numpy as np
import pytest
from scipy.stats import norm

from optuna_hypergrad.algorithms.acquisition import (
    Acquisition,
    best_acquisition,
    first_design,
    log_expected_improvement,
)
from optuna_hypergrad.algorithms.coordinates import Coordinates
from optuna_hypergrad.algorithms.gaussian_process import Data, GaussianProcess, Hyperparameters
from optuna_hypergrad.algorithms.ranges import Array


def test_improvement_is_that_of_the_formula() -> None:
    z = np.linspace(-5, 5, 41)
    expected = np.log(norm.pdf(z) + z * norm.cdf(z))
    np.testing.assert_allclose(log_expected_improvement(z)[0], expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("z", [-200.0, -40.0, -26.0, -24.0, -3.0, 0.0, 2.0, 29.0, 31.0, 1e9])
def test_its_slope_is_its_derivative_far_out_as_well(z: float) -> None:
    step = 1e-4 * max(1.0, z)
    low, high = log_expected_improvement(np.array([z - step, z + step]))[0]
    slope = log_expected_improvement(np.array(z))[1].item()
    assert slope == pytest.approx((high - low) / (2 * step), rel=1e-3)


def test_it_is_continuous_where_the_asymptote_begins() -> None:
    near, far = log_expected_improvement(np.array([-25.0 + 1e-9, -25.0 - 1e-9]))[0]
    assert near == pytest.approx(far, abs=0.01)


def test_the_first_points_spread_and_repeat_with_a_seed() -> None:
    coordinates = Coordinates((3, 1), (4,))
    first = np.array([first_design(coordinates, i, seed=5) for i in range(8)])
    again = np.array([first_design(coordinates, i, seed=5) for i in reversed(range(8))])[::-1]
    np.testing.assert_array_equal(first, again)
    assert ((first >= 0) & (first <= 1)).all()
    for column in (first[:, :3].mean(axis=1), first[:, 3]):
        assert column.min() < 0.25 and column.max() > 0.75
    assert (first[:, 4:].sum(axis=1) == 1).all() and first[:, 4:].any(axis=0).all()


def posterior(coordinates: Coordinates, points: Array, losses: Array) -> GaussianProcess:
    d = coordinates.basis.shape[1]
    data = Data(coordinates.of(points), losses, np.empty((0, d)), np.empty(0, dtype=np.int64))
    return GaussianProcess(data, Hyperparameters(np.full(d, 0.4), 1.0, 0.01, 0.1, 0.1))


def test_no_point_of_a_grid_has_a_better_acquisition() -> None:
    coordinates = Coordinates((1, 1))
    points = np.random.default_rng(0).random((7, 2))
    losses = ((points - [0.7, 0.2]) ** 2).sum(axis=1) * 4 - 1
    process = posterior(coordinates, points, losses)
    target = process.predict(coordinates.of(points))[0].min()

    def score(u: Array) -> Array:
        """log EI + β/n log π of independent normal levels, written out."""
        mean, deviation = process.predict(coordinates.of(u))
        z = (target - mean) / deviation
        prior = norm.logpdf(u, 0.5, 0.35).sum(axis=1)
        return np.asarray(
            log_expected_improvement(z)[0] + np.log(deviation) + 10.0 / len(points) * prior
        )

    found = best_acquisition(process, coordinates, points, np.random.default_rng(0))
    axis = np.linspace(0, 1, 61)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    assert score(found[None]).item() >= score(grid).max() - 1e-3


def test_the_gradient_of_an_acquisition_is_its_derivative() -> None:
    coordinates = Coordinates((5, 80), (2,), np.random.default_rng(2).normal(size=(3, 85)))
    points = np.random.default_rng(0).random((6, 87))
    process = posterior(coordinates, points, np.random.default_rng(1).normal(size=6))
    acquisition = Acquisition(process, coordinates, -0.5)
    x = coordinates.of(points[:1] + 0.05)
    value, gradient = acquisition.gradient(x[0])
    assert value == pytest.approx(acquisition.at(x).item())
    steps = 1e-5 * np.eye(x.shape[1])
    differences = (acquisition.at(x + steps) - acquisition.at(x - steps)) / 2e-5
    np.testing.assert_allclose(gradient, differences, rtol=1e-4, atol=1e-6)


def test_of_two_points_as_unknown_the_more_plausible_one_is_better() -> None:
    coordinates = Coordinates((6,))
    middle = np.full((1, 6), 0.5)
    process = posterior(coordinates, middle, np.zeros(1))
    acquisition = Acquisition(process, coordinates, 0.0)
    bend = 0.1 * np.array([-5.0, -3.0, -1.0, 1.0, 3.0, 5.0])
    zigzag = np.linalg.norm(bend) / 6**0.5 * np.array([1.0, -1.0] * 3)
    smooth, rough = acquisition.at(coordinates.of(middle + np.array([bend, zigzag])))
    assert smooth > rough + 1


def test_choices_alone_are_searched() -> None:
    coordinates = Coordinates((), (3,))
    points = np.eye(3)[[0, 1]]
    process = posterior(coordinates, points, np.array([0.0, 1.0]))
    found = best_acquisition(process, coordinates, points, np.random.default_rng(0))
    np.testing.assert_array_equal(found, [0, 0, 1])  # the one that has not run
