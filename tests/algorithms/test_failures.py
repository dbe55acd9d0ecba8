"""How likely a run fails."""

import numpy as np
import pytest

from optuna_hypergrad.algorithms.coordinates import Coordinates
from optuna_hypergrad.algorithms.failures import Failures

COORDINATES = Coordinates((2,))


@pytest.fixture(scope="module")
def failures() -> Failures:
    """Above the diagonal, three of four runs fail; below it, none."""
    rng = np.random.default_rng(0)
    points = rng.random((60, 2))
    failed = (points.sum(axis=1) > 1) & (rng.random(60) < 0.75)
    return Failures(COORDINATES.of(points), failed, COORDINATES)


def test_frequencies_are_those_of_the_neighbourhood(failures: Failures) -> None:
    frequency = failures.frequency(COORDINATES.of(np.array([[0.1, 0.2], [0.8, 0.8]])))
    assert frequency[0] < 0.1 and 0.5 < frequency[1] < 0.95


def test_the_penalty_is_small_where_few_fail(failures: Failures) -> None:
    penalty = failures.penalty(COORDINATES.of(np.array([[0.1, 0.2], [0.8, 0.8]])))
    assert -0.5 < penalty[0] < 0 and penalty[1] < -2


@pytest.mark.parametrize("point", [[0.1, 0.2], [0.5, 0.5], [0.9, 0.7]])
def test_the_gradient_of_the_penalty_is_that_of_differences(
    failures: Failures, point: list[float]
) -> None:
    x, step = COORDINATES.of(np.array([point]))[0], 1e-5
    value, slopes = failures.penalty_slopes(x)
    assert value == pytest.approx(failures.penalty(x[None])[0])
    moves = step * np.eye(len(x))
    differences = (failures.penalty(x + moves) - failures.penalty(x - moves)) / (2 * step)
    np.testing.assert_allclose(slopes, differences, rtol=1e-4, atol=1e-7)
