"""What the numeric core guarantees for all numbers: finite, infinite, NaN, huge and tiny."""

import math
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from optuna_hypergrad.algorithms import mutation, refinement, selection, sign_descent
from optuna_hypergrad.algorithms.noise import effective_steps, hypervariance, sign_fluctuation
from optuna_hypergrad.algorithms.ranges import Ranges
from optuna_hypergrad.algorithms.sharing import shared_gradient, shared_windows
from optuna_hypergrad.algorithms.sign_descent import Outcome

Array = NDArray[np.float64]

ANY = st.floats(allow_nan=True, allow_infinity=True)
FINITE = st.floats(-1e150, 1e150)
LOSSES = st.lists(FINITE | st.just(math.inf), min_size=1, max_size=12)
FRACTION = st.floats(0.0, 1.0)
quick = settings(deadline=None, max_examples=60, derandomize=True)


def arrays(elements: st.SearchStrategy[float], least: int = 1) -> st.SearchStrategy[Array]:
    lists = st.lists(elements, min_size=least, max_size=6)
    return lists.map(lambda values: np.array(values, dtype=float))


@st.composite
def ranges(draw: st.DrawFn, n: int | None = None) -> Ranges:
    """Some ranges, linear and log, narrow and wide."""
    n = draw(st.integers(1, 5)) if n is None else n
    log = np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    low = np.where(log, draw_each(draw, n, 1e-12, 1e3), draw_each(draw, n, -1e6, 1e6))
    width = draw_each(draw, n, 1e-3, 1e6)
    return Ranges(low, np.where(log, low * (1.0 + width), low + width), log)


def draw_each(draw: st.DrawFn, n: int, low: float, high: float) -> Array:
    return np.array(draw(st.lists(st.floats(low, high), min_size=n, max_size=n)))


def inside(ranges: Ranges, values: Array) -> bool:
    return bool(np.all((ranges.low <= values) & (values <= ranges.high)))


class TestRanges:
    @quick
    @given(data=st.data(), space=ranges())
    def test_natural_values_lie_inside_for_every_point(self, data: Any, space: Ranges) -> None:
        point = np.array([data.draw(st.floats(-700.0, 700.0)) for _ in space.low])
        assert inside(space, space.to_natural(point))
        assert inside(space, space.from_unit(np.clip(point, 0.0, 1.0)))
        assert inside(space, space.start())

    @quick
    @given(data=st.data(), space=ranges())
    def test_fractions_are_fractions_and_come_back(self, data: Any, space: Ranges) -> None:
        u = np.array([data.draw(FRACTION) for _ in space.low])
        again = space.to_unit(space.from_unit(u))
        assert np.all((again >= 0.0) & (again <= 1.0))
        np.testing.assert_allclose(again, u, atol=1e-6)

    @quick
    @given(space=ranges())
    def test_steps_are_positive(self, space: Ranges) -> None:
        assert np.all(space.step_size() > 0.0)


@st.composite
def runs(draw: st.DrawFn) -> tuple[Ranges, list[tuple[Array, float, bool]]]:
    """A space, and outcomes of trials in it: gradient, loss, and whether it diverged."""
    space = draw(ranges())
    n = len(space.low)
    gradient = st.lists(ANY, min_size=n, max_size=n).map(lambda g: np.array(g, dtype=float))
    return space, draw(st.lists(st.tuples(gradient, FINITE, st.booleans()), max_size=12))


class TestSignDescent:
    @quick
    @given(run=runs(), safeguard=st.none() | st.floats(0.0, 10.0))
    def test_points_stay_inside_and_steps_never_grow(
        self, run: tuple[Ranges, Any], safeguard: float | None
    ) -> None:
        space, outcomes = run
        state = sign_descent.init(space, space.to_search(space.start()))
        for gradient, loss, diverged in outcomes:
            outcome = Outcome(state.point, loss, gradient, diverged)
            after = sign_descent.advance(state, outcome, space, safeguard)
            np.testing.assert_array_equal(after.point, space.clip(after.point))
            assert np.all(after.step_size <= state.step_size)
            assert np.all(np.isin(after.sign, (-1, 0, 1)))
            state = after

    @quick
    @given(run=runs())
    def test_unknown_and_zero_entries_move_nothing(self, run: tuple[Ranges, Any]) -> None:
        space, outcomes = run
        state = sign_descent.init(space, space.to_search(space.start()))
        for gradient, loss, _ in outcomes:
            after = sign_descent.advance(state, Outcome(state.point, loss, gradient), space, None)
            still = ~np.isfinite(gradient) | (gradient == 0.0)
            np.testing.assert_array_equal(after.point[still], state.point[still])
            np.testing.assert_array_equal(after.step_size[still], state.step_size[still])
            state = after


class TestRefinement:
    @quick
    @given(gradients=st.lists(st.lists(ANY, min_size=3, max_size=3), max_size=20))
    def test_points_and_steps_stay_inside(self, gradients: list[list[float]]) -> None:
        point, state = np.array([0.0, 0.5, 1.0]), refinement.init(3)
        for gradient in np.array(gradients, dtype=float).reshape(-1, 3):
            moved, after = refinement.descend(point, gradient, state)
            assert np.all((moved >= 0.0) & (moved <= 1.0))
            assert np.all(after.step_size >= refinement.SHORTEST_STEP)
            assert np.all(after.step_size <= refinement.LONGEST_STEP)
            still = ~np.isfinite(gradient) | (gradient == 0.0)
            np.testing.assert_array_equal(moved[still], point[still])
            np.testing.assert_array_equal(after.sign[still], state.sign[still])
            point, state = moved, after


class TestMutation:
    @quick
    @given(
        outer=st.lists(st.lists(ANY, min_size=3, max_size=3), max_size=40),
        activation=st.sampled_from(mutation.ACTIVATIONS),
        u=st.lists(FRACTION, min_size=3, max_size=3),
    )
    def test_weights_lie_between_0_and_2_and_mutants_inside(
        self, outer: list[list[float]], activation: mutation.Activation, u: list[float]
    ) -> None:
        teacher, point = mutation.identity([[0], [1], [2]], activation), np.array(u)
        for hypergradient in outer:
            teacher = mutation.learn(teacher, point, np.array(hypergradient))
            weights = mutation.weights(teacher, point)
            assert np.all((weights >= 0.0) & (weights <= 2.0))
            mutant = mutation.mutate(teacher, point)
            assert np.all((mutant >= 0.0) & (mutant <= 1.0))
        assert np.isfinite(teacher.keys).all() and np.isfinite(teacher.values).all()
        assert math.isfinite(teacher.mean_square) and teacher.steps == len(outer)

    @quick
    @given(u=st.lists(FRACTION, max_size=5), seed=st.integers(0, 2**32))
    def test_perturbed_points_stay_inside(self, u: list[float], seed: int) -> None:
        moved = mutation.perturb(np.array(u), np.random.default_rng(seed))
        assert np.all((moved >= 0.0) & (moved <= 1.0))


class TestSelection:
    @quick
    @given(losses=LOSSES, fraction=st.floats(0.0, 0.5))
    def test_the_top_is_finite_and_never_in_the_bottom(
        self, losses: list[float], fraction: float
    ) -> None:
        top = selection.top(losses, fraction)
        assert all(math.isfinite(losses[i]) for i in top)
        rng, cut = np.random.default_rng(0), selection.truncated(len(losses), fraction)
        assert 2 * cut <= len(losses)
        for own in range(len(losses)):
            chosen = selection.truncation(losses, own, fraction, rng)
            assert chosen is None or (chosen in top and chosen != own)

    @quick
    @given(losses=LOSSES, seed=st.integers(0, 2**32))
    def test_a_tournament_is_lost_only_to_a_better_member(
        self, losses: list[float], seed: int
    ) -> None:
        for own in range(len(losses)):
            chosen = selection.tournament(losses, own, np.random.default_rng(seed))
            assert chosen is None or losses[chosen] < losses[own]


class TestSharing:
    @quick
    @given(gradient=arrays(st.floats(allow_nan=False, allow_infinity=False)))
    def test_windows_hold_everything_once(self, gradient: Array) -> None:
        widths = shared_windows(np.repeat(gradient, 4))
        assert sum(widths) == 4 * len(gradient) and min(widths) > 0

    @quick
    @given(gradient=arrays(FINITE), data=st.data())
    def test_a_shared_gradient_is_between_its_entries(self, gradient: Array, data: Any) -> None:
        first = data.draw(st.integers(1, len(gradient)))
        widths = [w for w in (first, len(gradient) - first) if w]
        shared = shared_gradient(gradient, widths)
        for before, after in zip(*(np.split(g, [first]) for g in (gradient, shared)), strict=True):
            if len(before):
                slack = 1e-9 * np.abs(before).max()
                assert np.all(after <= before.max() + slack)
                assert np.all(after >= before.min() - slack)


class TestNoise:
    @quick
    @given(table=st.lists(st.lists(FINITE, min_size=2, max_size=2), min_size=2, max_size=8))
    def test_fluctuation_is_at_most_a_half_and_variance_not_negative(
        self, table: list[list[float]]
    ) -> None:
        fluctuation = sign_fluctuation(table)
        assert np.all((fluctuation >= 0.0) & (fluctuation <= 0.5))
        assert np.all(hypervariance(table) >= 0.0)

    @quick
    @given(values=arrays(st.floats(-1e100, 1e100), least=2))
    def test_there_are_between_one_and_n_effective_steps(self, values: Array) -> None:
        assert 1.0 <= effective_steps(values) <= len(values) + 1e-9
