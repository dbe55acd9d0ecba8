import numpy as np
import pytest

from optuna_hypergrad.algorithms.ranges import Ranges

RANGES = Ranges(
    low=np.array([-1.0, 0.0, 1.0, 1e-6]),
    high=np.array([1.0, 0.99, 3.0, 1e-2]),
    log=np.array([False, False, False, True]),
)


def test_starts_at_zero_where_the_range_spans_it_else_in_the_middle() -> None:
    np.testing.assert_allclose(RANGES.start(), [0.0, 0.0, 2.0, 1e-4])


def test_ten_steps_reach_either_end_from_the_middle() -> None:
    middle = RANGES.to_search([0.0, 0.495, 2.0, 1e-4])
    np.testing.assert_allclose(RANGES.to_natural(middle - 10 * RANGES.step_size()), RANGES.low)
    np.testing.assert_allclose(RANGES.to_natural(middle + 10 * RANGES.step_size()), RANGES.high)


def test_search_coordinates_come_back_and_stay_inside_the_bounds() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        point = rng.uniform(-30, 30, size=4)
        values = RANGES.to_natural(point)
        assert np.all((values >= RANGES.low) & (values <= RANGES.high))
        np.testing.assert_allclose(RANGES.to_search(values), RANGES.clip(point), atol=1e-12)


def test_fractions_of_a_range_and_their_derivatives() -> None:
    ranges = Ranges(np.array([-5.0, 1e-4]), np.array([10.0, 1.0]), np.array([False, True]))
    values = np.array([1.0, 1e-2])
    u = ranges.to_unit(values)
    assert u == pytest.approx([0.4, 0.5])
    assert ranges.from_unit(u) == pytest.approx(values)
    gradient, h = np.array([3.0, 7.0]), 1e-6
    above, below = ranges.from_unit(u + h), ranges.from_unit(u - h)
    numeric = gradient * (above - below) / (2 * h)
    assert ranges.unit_gradient(values, gradient) == pytest.approx(numeric, rel=1e-6)
