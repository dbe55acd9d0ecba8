"""Steps of arrays, judged by torch's Adam, and returns to the best point."""

import numpy as np
import pytest
import torch

from optuna_hypergrad.algorithms.array_descent import (
    BETA1,
    BETA2,
    EPS,
    STEP_SIZE,
    Outcome,
    advance,
    init,
    smoothed,
)

RNG = np.random.default_rng(0)
DOWN = np.array([1.0, -1.0])  # a hypergradient of average size in both entries
STEP = STEP_SIZE / 2  # of such an entry


def test_steps_are_those_of_torchs_adam_on_normalised_gradients() -> None:
    gradients = RNG.normal(size=(12, 7))
    weights = torch.full((7,), 0.5, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([weights], lr=0.01, betas=(BETA1, BETA2), eps=EPS)
    state = init(np.full(7, 0.5), 0.01)
    for i, gradient in enumerate(gradients):
        weights.grad = torch.from_numpy(gradient / np.sqrt(np.mean(gradient**2)))
        adam.step()
        state = advance(state, Outcome(state.point, -i, gradient))
        np.testing.assert_allclose(state.point, weights.detach().numpy(), rtol=1e-12)


@pytest.mark.parametrize("size", [1e-300, 1.0, 1e200])
def test_the_size_of_a_hypergradient_does_not_matter(size: float) -> None:
    state, other = (init(np.full(4, 0.5)) for _ in range(2))
    for i, gradient in enumerate(RNG.normal(size=(5, 4))):
        state = advance(state, Outcome(state.point, -i, gradient))
        other = advance(other, Outcome(other.point, -i, size * gradient))
    np.testing.assert_allclose(state.point, other.point, rtol=1e-9)


def test_points_stay_within_the_range_and_leave_a_bound_again() -> None:
    state = init(np.array([0.1, 0.9]))
    for i in range(10):
        state = advance(state, Outcome(state.point, -i, DOWN))
    assert state.point.tolist() == [0.0, 1.0]
    for i in range(10, 20):
        state = advance(state, Outcome(state.point, -i, -DOWN))
    assert state.point[0] > 0 and state.point[1] < 1


def test_a_zero_hypergradient_moves_nothing() -> None:
    state = advance(init(np.array([0.5, 0.2])), Outcome(np.array([0.5, 0.2]), 1.0, np.zeros(2)))
    assert state.point.tolist() == [0.5, 0.2]


def test_steps_leave_from_where_a_trial_ran() -> None:
    elsewhere = np.array([0.3, 0.8])
    state = advance(init(np.full(2, 0.5)), Outcome(elsewhere, 1.0, DOWN))
    np.testing.assert_allclose(state.point, elsewhere - STEP * DOWN)


def test_two_outcomes_that_are_no_better_lead_back_to_the_best_point() -> None:
    best = np.full(2, 0.5)
    state = advance(init(best), Outcome(best, 1.0, DOWN))
    state = advance(state, Outcome(state.point, 1.5, RNG.normal(size=2)))
    assert state.n_worse == 1
    back = advance(state, Outcome(state.point, 1.2, RNG.normal(size=2)))
    assert back.point is best and back.step_size == state.step_size and back.n_returns == 0
    # Once it has run twice, with the mean of its outcomes, the search leaves it by half a step.
    state = advance(init(best), Outcome(best, 1.1, DOWN, n_runs=2))
    state = advance(state, Outcome(state.point, 1.5, RNG.normal(size=2)))
    state = advance(state, Outcome(state.point, 1.2, RNG.normal(size=2)))
    np.testing.assert_allclose(state.point, best - STEP / 2 * DOWN)
    better = state.point
    state = advance(state, Outcome(better, 0.9, DOWN))
    np.testing.assert_allclose(state.point, better - STEP / 2 * DOWN)


def test_ties_are_progress() -> None:
    state = init(np.full(2, 0.5))
    for i in range(4):
        state = advance(state, Outcome(state.point, 1.0, DOWN))
        np.testing.assert_allclose(state.point, 0.5 - (i + 1) * STEP * DOWN)


def test_noise_does_not_end_a_search() -> None:
    """The first losses are low by chance; after three returns, losses do not matter."""
    state = advance(init(np.full(2, 0.9)), Outcome(np.full(2, 0.9), -100.0, np.ones(2), n_runs=2))
    for _ in range(80):
        state = advance(state, Outcome(state.point, RNG.normal(), state.point - 0.2))
    assert state.step_size == STEP_SIZE / 8
    np.testing.assert_allclose(state.point, 0.2, atol=0.05)


def test_divergence_leads_back_at_once_each_time_by_half() -> None:
    best = np.full(2, 0.5)
    assert advance(init(best), Outcome(best, np.nan, None)).point is best
    state = advance(init(best), Outcome(best, 1.0, DOWN))
    for power in (1, 2, 3):
        state = advance(state, Outcome(state.point, np.nan, None))
        np.testing.assert_allclose(state.point, best - STEP * 0.5**power * DOWN)


def test_losses_that_are_unknown_always_count_as_better() -> None:
    state = init(np.full(2, 0.5))
    for i in range(4):
        state = advance(state, Outcome(state.point, np.nan, DOWN))
        np.testing.assert_allclose(state.point, 0.5 - (i + 1) * STEP * DOWN)


def test_smoothed_losses_are_means_over_neighbours() -> None:
    points, losses = RNG.random((6, 3)), RNG.random(6)
    steps = [np.linalg.norm(points[i + 1] - points[i]) for i in range(5)]
    for i, found in enumerate(smoothed(points, losses)):
        weights = [
            np.exp(-0.5 * (np.linalg.norm(points[i] - point) / np.median(steps)) ** 2)
            for point in points
        ]
        best = losses.min()
        capped = np.minimum(losses, best + 3 * (np.median(losses) - best))
        assert found == pytest.approx(np.average(capped, weights=weights))


@pytest.mark.parametrize("n", [1, 4])
def test_smoothed_losses_of_one_point_are_their_mean(n: int) -> None:
    losses = RNG.random(n)
    best = losses.min()
    mean = np.minimum(losses, best + 3 * (np.median(losses) - best)).mean()
    np.testing.assert_allclose(smoothed(np.full((n, 2), 0.3), losses), np.full(n, mean))


@pytest.mark.parametrize("blown_up", [10.0, 1e9, 1e308, np.inf])
def test_one_run_that_blew_up_spoils_no_distant_point(blown_up: float) -> None:
    points = np.linspace(0, 1, 12)[:, None]
    losses = np.abs(points[:, 0] - 0.6) + 0.1
    losses[-1] = blown_up
    assert smoothed(points, losses).argmin() in (6, 7)


def test_smoothed_losses_need_no_differences_of_all_points() -> None:
    points, losses = RNG.random((300, 20_000)), RNG.random(300)
    assert np.isfinite(smoothed(points, losses)).all()
