import numpy as np
import pytest

from optuna_hypergrad.algorithms.ranges import Ranges, SignedLogRanges

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


class TestSignedLogRanges:
    LOW, HIGH = np.array([-1.0, -0.3, 0.0, 1e-4, -5.0]), np.array([1.0, 2.0, 0.99, 1.0, -1.0])
    LOG = np.array([False, False, False, True, False])
    RANGES = SignedLogRanges(LOW, HIGH, LOG)

    @pytest.mark.parametrize("fraction", [0.0, 0.2, 0.37, 0.5, 0.9, 1.0])
    def test_points_and_values_are_inverse(self, fraction: float) -> None:
        u = np.full(5, fraction)
        values = self.RANGES.from_unit(u)
        assert (values >= self.LOW).all() and (values <= self.HIGH).all()
        np.testing.assert_allclose(self.RANGES.to_unit(values), u, atol=1e-12)

    def test_a_gradient_by_fractions_is_that_of_finite_differences(self) -> None:
        u, step = np.array([0.1, 0.45, 0.6, 0.8, 0.3]), 1e-6
        values = self.RANGES.from_unit(u)
        differences = (self.RANGES.from_unit(u + step) - self.RANGES.from_unit(u - step)) / step / 2
        gradient = np.array([2.0, -1.0, 3.0, 0.5, 1.0])
        np.testing.assert_allclose(
            self.RANGES.unit_gradient(values, gradient), gradient * differences, rtol=1e-7
        )

    def test_ranges_without_zero_inside_are_as_ever(self) -> None:
        u = np.full(5, 0.3)
        usual = Ranges(self.LOW, self.HIGH, self.LOG)
        np.testing.assert_allclose(self.RANGES.from_unit(u)[2:], usual.from_unit(u)[2:])

    def test_a_sign_does_not_matter_and_small_values_are_told_apart(self) -> None:
        ranges = SignedLogRanges(np.array([-1.0]), np.array([1.0]), np.array([False]))
        at = {h: ranges.to_unit([h]).item() for h in (-0.3, 0.0, 0.1, 0.2, 0.3, 0.8, 0.9)}
        assert at[-0.3] + at[0.3] == pytest.approx(1) and at[0.0] == pytest.approx(0.5)
        assert at[0.2] - at[0.1] > 3 * (at[0.9] - at[0.8])

    def test_the_largest_ranges_are_no_error(self) -> None:
        ranges = SignedLogRanges(np.array([-1e300]), np.array([1e300]), np.array([False]))
        gradient = ranges.unit_gradient([1e300], [1e-300])
        assert ranges.from_unit([1.0]) == 1e300 and np.isfinite(gradient).all()
