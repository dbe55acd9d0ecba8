import numpy as np
import pytest
from numpy.typing import ArrayLike

from optuna_hypergrad.algorithms import sign_descent
from optuna_hypergrad.algorithms.convergence import has_converged
from optuna_hypergrad.algorithms.ranges import Ranges
from optuna_hypergrad.algorithms.sign_descent import Outcome, State

NAN = float("nan")


def box(size: int, low: float = -1.0, high: float = 1.0) -> Ranges:
    return Ranges(np.full(size, low), np.full(size, high), np.full(size, False))


def tell(
    state: State,
    gradient: ArrayLike,
    loss: float = 0.0,
    *,
    diverged: bool = False,
    safeguard: float | None = None,
) -> State:
    outcome = Outcome(state.point, loss, np.asarray(gradient, dtype=float), diverged)
    return sign_descent.advance(state, outcome, box(len(state.point)), safeguard)


def test_the_papers_rule_by_hand() -> None:
    state = sign_descent.init(box(3), np.zeros(3), np.full(3, 0.1))
    state = tell(state, [2.0, -0.001, 0.0])
    np.testing.assert_allclose(state.point, [-0.1, 0.1, 0.0])
    np.testing.assert_allclose(state.step_size, 0.1)  # 0 → ±1 is no flip
    state = tell(state, [5.0, 3.0, -1.0])
    np.testing.assert_allclose(state.step_size, [0.1, 0.05, 0.1])  # halve first, then step
    np.testing.assert_allclose(state.point, [-0.2, 0.05, 0.1])


def test_zero_and_nan_move_nothing_and_forget_nothing() -> None:
    state = sign_descent.init(box(2), np.zeros(2), np.full(2, 0.1))
    state = tell(state, [1.0, 1.0])
    between = tell(state, [0.0, NAN])
    np.testing.assert_array_equal(between.point, state.point)
    np.testing.assert_array_equal(between.step_size, state.step_size)
    after = tell(between, [-1.0, -1.0])  # a flip against the last non-zero sign
    np.testing.assert_allclose(after.step_size, 0.05)


def test_points_stay_inside_the_bounds() -> None:
    state = sign_descent.init(box(1), np.array([0.95]), np.array([0.1]))
    state = tell(state, [-1.0])
    assert state.point == 1.0
    state = tell(state, [-1.0])
    assert state.point == 1.0 and state.step_size == 0.1
    assert tell(state, [1.0]).point == pytest.approx(0.95)


@pytest.mark.parametrize("safeguard", [None, 0.05])
def test_finds_the_minimum_of_an_ill_conditioned_quadratic(safeguard: float | None) -> None:
    rng = np.random.default_rng(0)
    optimum, curvature = rng.uniform(-0.9, 0.9, size=6), np.logspace(-3, 3, 6)
    ranges = box(6)
    state = sign_descent.init(ranges, ranges.start())
    for _ in range(60):
        error = state.point - optimum
        state = tell(state, curvature * error, float(curvature @ error**2), safeguard=safeguard)
    np.testing.assert_allclose(state.point, optimum, atol=1e-3)
    assert has_converged(state, ranges, tolerance=1e-2)


def test_log_ranges_move_by_factors() -> None:
    ranges = Ranges(np.array([1e-4]), np.array([1.0]), np.array([True]))
    state = sign_descent.init(ranges, ranges.to_search([1e-2]))
    for sign in (1.0, 1.0, -1.0):
        outcome = Outcome(state.point, 0.0, np.array([sign]))
        state = sign_descent.advance(state, outcome, ranges, None)
    factor = 1e4 ** (1 / 20)
    assert ranges.to_natural(state.point) == pytest.approx(1e-2 / factor**1.5)


class TestSafeguard:
    def descend(self) -> State:
        """Losses 2.0 and 1.0; the best point is 0.1, to be left upwards by 0.1."""
        state = sign_descent.init(box(2), np.zeros(2), np.full(2, 0.1))
        state = tell(state, [-1.0, -1.0], 2.0, safeguard=0.1)
        return tell(state, [-1.0, 1.0], 1.0, safeguard=0.1)

    def test_goes_back_to_the_best_point_and_leaves_it_by_half_the_steps(self) -> None:
        state = tell(self.descend(), [NAN, NAN], diverged=True, safeguard=0.1)
        np.testing.assert_allclose(state.step_size, [0.05, 0.025])
        np.testing.assert_array_equal(state.point, [0.1, 0.1])
        state = tell(state, [-1.0, 1.0], 1.0, safeguard=0.1)
        np.testing.assert_allclose(state.point, [0.15, 0.075])

    def test_without_noise_it_measures_only_once(self) -> None:
        state = tell(self.descend(), [NAN, NAN], diverged=True, safeguard=0.1)
        state = tell(state, [-1.0, 1.0], 1.0, safeguard=0.1)
        state = tell(state, [NAN, NAN], diverged=True, safeguard=0.1)
        np.testing.assert_allclose(state.point, [0.125, 0.0875])

    def test_a_second_measurement_corrects_a_lucky_loss(self) -> None:
        state = tell(self.descend(), [-1.0, 1.0], 1.5, safeguard=0.1)
        state = tell(state, [-1.0, 1.0], 1.4, safeguard=0.1)
        assert state.best.losses == (1.0, 1.4) and state.best.loss == pytest.approx(1.2)
        assert state.noise == pytest.approx(0.4 / 2**0.5)
        assert not tell(state, [-1.0, 1.0], 1.45, safeguard=0.1).returning
        assert tell(state, [-1.0, 1.0], 1.5, safeguard=0.1).returning

    def test_a_best_point_that_diverges_is_measured_again(self) -> None:
        state = tell(self.descend(), [NAN, NAN], diverged=True, safeguard=0.1)
        state = tell(state, [NAN, NAN], diverged=True, safeguard=0.1)
        np.testing.assert_array_equal(state.point, [0.1, 0.1])
        np.testing.assert_allclose(state.step_size, [0.025, 0.0125])

    def test_a_loss_rejected_halves_the_steps_that_went_too_far(self) -> None:
        # At the rejected point the first hypergradient has turned, the second has not.
        before = self.descend()
        np.testing.assert_allclose(before.step_size, [0.1, 0.05])
        state = tell(before, [1.0, 1.0], 1.5, safeguard=0.1)
        np.testing.assert_allclose(state.step_size, [0.05, 0.05])

    def test_all_steps_are_halved_where_none_has_turned(self) -> None:
        state = tell(self.descend(), [-1.0, 1.0], 1.5, safeguard=0.1)
        np.testing.assert_allclose(state.step_size, [0.05, 0.025])

    def test_a_noisy_loss_does_not_end_the_search_early(self) -> None:
        rng = np.random.default_rng(0)
        found = []
        for _ in range(20):
            optimum = rng.uniform(-0.5, 0.5, size=9)
            state = sign_descent.init(box(9), np.zeros(9))
            for _ in range(60):
                error = state.point - optimum
                loss = float(error @ error + 0.3 * rng.normal())
                state = tell(state, 2 * error, loss, safeguard=0.05)
                if has_converged(state, box(9), 1e-3):
                    break
            found.append(float(np.sum((state.point - optimum) ** 2)))
        assert np.median(found) < 1e-3  # from 0.75, with noise of 0.3

    @pytest.mark.parametrize("loss, rejected", [(1.09, False), (1.11, True), (0.5, False)])
    def test_rejects_what_loses_more_than_its_share_of_the_progress(
        self, loss: float, rejected: bool
    ) -> None:
        assert tell(self.descend(), [1.0, 1.0], loss, safeguard=0.1).returning is rejected

    @pytest.mark.parametrize("scale, shift", [(1e-6, 0.0), (1e6, -1e7), (1.0, -3.0)])
    def test_does_not_depend_on_the_scale_or_sign_of_the_loss(
        self, scale: float, shift: float
    ) -> None:
        rng = np.random.default_rng(1)
        states = [sign_descent.init(box(3), np.zeros(3)) for _ in range(2)]
        for _ in range(30):
            loss, gradient = rng.normal(), rng.normal(size=3)
            losses = (loss, scale * loss + shift)
            states = [
                tell(s, gradient, v, safeguard=0.3) for s, v in zip(states, losses, strict=True)
            ]
            np.testing.assert_array_equal(states[0].point, states[1].point)

    def test_comes_back_from_a_cliff_that_the_papers_rule_never_leaves(self) -> None:
        def run(safeguard: float | None) -> float:
            """Left of 0.35 a quadratic; right of it chance level and no hypergradient."""
            state = sign_descent.init(box(1), np.zeros(1))
            losses = []
            for _ in range(30):
                x = state.point[0]
                alive = x < 0.35
                losses.append((x - 0.33) ** 2 if alive else 2.3)
                slope = [2 * (x - 0.33)] if alive else [0.0]
                state = tell(state, slope, losses[-1], safeguard=safeguard)
            return losses[-1]

        assert run(None) == 2.3
        assert run(0.05) < 1e-3

    def test_a_start_that_diverged_leaves_nothing_to_return_to(self) -> None:
        state = sign_descent.init(box(1), np.zeros(1))
        state = tell(state, [NAN], diverged=True, safeguard=0.1)
        assert state.best is None and state.point == 0.0
