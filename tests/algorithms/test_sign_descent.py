import numpy as np
import pytest
from numpy.typing import ArrayLike

from optuna_hypergrad.algorithms import sign_descent
from optuna_hypergrad.algorithms.ranges import Array, Ranges
from optuna_hypergrad.algorithms.sign_descent import (
    MAX_UNKNOWN,
    MAX_ZEROS,
    Outcome,
    State,
    has_converged,
    settled,
)

NAN = float("nan")


def box(size: int, low: float = -1.0, high: float = 1.0) -> Ranges:
    return Ranges(np.full(size, low), np.full(size, high), np.full(size, False))


def step(
    state: State,
    gradient: ArrayLike,
    loss: float = 0.0,
    *,
    diverged: bool = False,
    safeguard: float | None = None,
) -> State:
    outcome = Outcome(state.point, loss, np.asarray(gradient, dtype=float), diverged)
    return sign_descent.advance(state, outcome, box(len(state.point)), safeguard)


def test_the_rule_of_fds_by_hand() -> None:
    state = sign_descent.init(box(3), np.zeros(3), np.full(3, 0.1))
    state = step(state, [2.0, -0.001, 0.0])
    np.testing.assert_allclose(state.point, [-0.1, 0.1, 0.0])
    np.testing.assert_allclose(state.step_size, 0.1)  # 0 → ±1 is no flip
    state = step(state, [5.0, 3.0, -1.0])
    np.testing.assert_allclose(state.step_size, [0.1, 0.05, 0.1])  # halve first, then step
    np.testing.assert_allclose(state.point, [-0.2, 0.05, 0.1])


def test_zero_and_nan_move_nothing_and_keep_the_last_sign() -> None:
    state = sign_descent.init(box(2), np.zeros(2), np.full(2, 0.1))
    state = step(state, [1.0, 1.0])
    between = step(state, [0.0, NAN])
    np.testing.assert_array_equal(between.point, state.point)
    np.testing.assert_array_equal(between.step_size, state.step_size)
    after = step(between, [-1.0, -1.0])  # a flip against the last non-zero sign
    np.testing.assert_allclose(after.step_size, 0.05)


def test_points_stay_inside_the_bounds() -> None:
    state = sign_descent.init(box(1), np.array([0.95]), np.array([0.1]))
    state = step(state, [-1.0])
    assert state.point == 1.0
    state = step(state, [-1.0])
    assert state.point == 1.0 and state.step_size == 0.1
    assert step(state, [1.0]).point == pytest.approx(0.95)


@pytest.mark.parametrize("safeguard", [None, 0.05])
def test_finds_the_minimum_of_an_ill_conditioned_quadratic(safeguard: float | None) -> None:
    rng = np.random.default_rng(0)
    optimum, curvature = rng.uniform(-0.9, 0.9, size=6), np.logspace(-3, 3, 6)
    ranges = box(6)
    state = sign_descent.init(ranges, ranges.start())
    for _ in range(60):
        error = state.point - optimum
        state = step(state, curvature * error, float(curvature @ error**2), safeguard=safeguard)
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
        """Losses 2.0 and 1.0; the best point is 0.1, with a step of 0.1 upwards from there."""
        state = sign_descent.init(box(2), np.zeros(2), np.full(2, 0.1))
        state = step(state, [-1.0, -1.0], 2.0, safeguard=0.1)
        return step(state, [-1.0, 1.0], 1.0, safeguard=0.1)

    def test_returns_to_the_best_point_and_leaves_it_by_half_the_steps(self) -> None:
        state = step(self.descend(), [NAN, NAN], diverged=True, safeguard=0.1)
        np.testing.assert_allclose(state.step_size, [0.05, 0.025])
        np.testing.assert_array_equal(state.point, [0.1, 0.1])
        state = step(state, [-1.0, 1.0], 1.0, safeguard=0.1)
        np.testing.assert_allclose(state.point, [0.15, 0.075])

    def test_without_noise_it_measures_only_once(self) -> None:
        state = step(self.descend(), [NAN, NAN], diverged=True, safeguard=0.1)
        state = step(state, [-1.0, 1.0], 1.0, safeguard=0.1)
        state = step(state, [NAN, NAN], diverged=True, safeguard=0.1)
        np.testing.assert_allclose(state.point, [0.125, 0.0875])

    def test_a_second_measurement_corrects_a_lucky_loss(self) -> None:
        state = step(self.descend(), [-1.0, 1.0], 1.5, safeguard=0.1)
        state = step(state, [-1.0, 1.0], 1.4, safeguard=0.1)
        assert state.best.losses == (1.0, 1.4) and state.best.loss == pytest.approx(1.2)
        assert state.noise == pytest.approx(0.4 / 2**0.5)
        assert not step(state, [-1.0, 1.0], 1.45, safeguard=0.1).remeasures
        assert step(state, [-1.0, 1.0], 1.5, safeguard=0.1).remeasures

    def test_a_best_point_that_diverges_is_measured_again(self) -> None:
        state = step(self.descend(), [NAN, NAN], diverged=True, safeguard=0.1)
        state = step(state, [NAN, NAN], diverged=True, safeguard=0.1)
        np.testing.assert_array_equal(state.point, [0.1, 0.1])
        np.testing.assert_allclose(state.step_size, [0.025, 0.0125])

    def test_a_loss_rejected_halves_the_steps_that_went_too_far(self) -> None:
        # At the rejected point the first hypergradient has flipped, the second has not.
        before = self.descend()
        np.testing.assert_allclose(before.step_size, [0.1, 0.05])
        state = step(before, [1.0, 1.0], 1.5, safeguard=0.1)
        np.testing.assert_allclose(state.step_size, [0.05, 0.05])

    def test_all_steps_are_halved_if_none_has_flipped(self) -> None:
        state = step(self.descend(), [-1.0, 1.0], 1.5, safeguard=0.1)
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
                state = step(state, 2 * error, loss, safeguard=0.05)
                if has_converged(state, box(9), 1e-3):
                    break
            found.append(float(np.sum((state.point - optimum) ** 2)))
        assert np.median(found) < 1e-3  # from 0.75, with noise of 0.3

    @pytest.mark.parametrize("loss, rejected", [(1.09, False), (1.11, True), (0.5, False)])
    def test_rejects_what_loses_more_than_its_share_of_the_progress(
        self, loss: float, rejected: bool
    ) -> None:
        assert step(self.descend(), [1.0, 1.0], loss, safeguard=0.1).remeasures is rejected

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
                step(s, gradient, v, safeguard=0.3) for s, v in zip(states, losses, strict=True)
            ]
            np.testing.assert_array_equal(states[0].point, states[1].point)

    def test_returns_from_a_cliff_that_the_rule_of_fds_never_leaves(self) -> None:
        def run(safeguard: float | None) -> float:
            """Left of 0.35 a quadratic; right of it chance level and no hypergradient."""
            state = sign_descent.init(box(1), np.zeros(1))
            losses = []
            for _ in range(30):
                x = state.point[0]
                is_left = x < 0.35
                losses.append((x - 0.33) ** 2 if is_left else 2.3)
                gradient = [2 * (x - 0.33)] if is_left else [0.0]
                state = step(state, gradient, losses[-1], safeguard=safeguard)
            return losses[-1]

        assert run(None) == 2.3
        assert run(0.05) < 1e-3

    def test_a_start_that_diverged_leaves_nothing_to_return_to(self) -> None:
        state = sign_descent.init(box(1), np.zeros(1))
        state = step(state, [NAN], diverged=True, safeguard=0.1)
        assert state.best is None and state.point == 0.0


def decide(state: State, gradient: list[float], loss: float = 1.0, **of: float) -> State:
    outcome = Outcome(state.point, loss, np.array(gradient), **of)  # type: ignore[arg-type]
    return sign_descent.advance(state, outcome, box(len(gradient)))


@pytest.fixture
def state() -> State:
    return sign_descent.init(box(2), np.zeros(2))


def test_zeros_in_a_row_settle(state: State) -> None:
    for count in range(MAX_ZEROS):
        assert not has_converged(state, box(2), 1e-3), count
        state = decide(state, [0.0, 0.0])
    assert has_converged(state, box(2), 1e-3)
    assert settled(state, box(2), 1e-3).flat.all()


def test_a_gradient_in_between_unsettles(state: State) -> None:
    for entry in (0.0, 0.0, 1.0, 0.0, 0.0):
        state = decide(state, [0.0, entry], loss=1.0 - abs(entry))
    assert [*settled(state, box(2), 1e-3).flat] == [True, False]


def test_an_unknown_entry_or_one_of_a_constraint_is_no_zero(state: State) -> None:
    for _ in range(5):
        state = decide(state, [NAN, NAN])
    for violation in (3.0, 2.0, 1.0):
        state = decide(state, [0.0, 1.0], violation=violation, restores=True)
    assert not settled(state, box(2), 1e-3).flat.any()


def test_an_entry_that_stays_unknown_settles(state: State) -> None:
    for count in range(MAX_UNKNOWN):
        assert not settled(state, box(2), 1e-3).unknown.any(), count
        state = decide(state, [NAN, 1.0 if count else NAN])
    assert [*settled(state, box(2), 1e-3).unknown] == [True, False]
    state = decide(state, [1.0, NAN], violation=1.0, restores=True)
    assert not settled(state, box(2), 1e-3).unknown.any()


def test_zeros_count_in_rejected_and_repeated_runs(state: State) -> None:
    for loss in (1.0, 1.2, 1.1, 0.9, 1.3, 1.0):
        state = decide(state, [0.0, 0.0], loss)
    assert settled(state, box(2), 1e-3).flat.all()


def test_the_first_feasible_step_follows_the_constraint() -> None:
    """Judged by the gradient of the loss on the bound: its derivative along x + y = 0.5."""
    ranges = Ranges(-np.ones(2), np.ones(2) * 3, np.zeros(2, dtype=bool))  # fractions are alike
    target = np.array([0.9, 0.3])

    def at(point: Array) -> Outcome:
        excess = max(float(point.sum()) - 0.5, 0.0)
        gradient = np.ones(2) if excess else 2 * (point - target)
        loss = float(np.sum((point - target) ** 2))
        return Outcome(point, loss, gradient, violation=excess, restores=excess > 0)

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
