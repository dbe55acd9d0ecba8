"""The model of runs: scales of losses, the next run, and the one to be recommended."""

import numpy as np
import pytest

from optuna_hypergrad.algorithms.coordinates import Coordinates
from optuna_hypergrad.algorithms.ranges import Array
from optuna_hypergrad.algorithms.surrogate import (
    CEILING,
    PROBE_EVERY,
    Runs,
    Surrogate,
    standardised,
)

NOTHING = np.empty((0, 2))
OPTIMUM = np.array([0.3, 0.8])


def runs_of(points: Array, losses: Array, slopes: Array | None = None) -> Runs:
    return Runs(points, losses, np.full(points.shape, np.nan) if slopes is None else slopes)


def bowl(n: int, d: int = 2, noise: float = 0.0, with_slopes: bool = False) -> Runs:
    rng = np.random.default_rng(0)
    points, optimum = rng.random((n, d)), np.resize(OPTIMUM, d)
    losses = ((points - optimum) ** 2).sum(axis=1) + noise * rng.normal(size=n)
    return runs_of(points, losses, 2 * (points - optimum) if with_slopes else None)


class TestStandardised:
    def test_slopes_are_derivatives_of_the_losses(self) -> None:
        losses, step = np.array([0.1, 0.25, 0.5, 0.3, 0.2]), 1e-6
        values, slopes = standardised(losses)
        assert values.mean() == pytest.approx(0) and values.std() == pytest.approx(1)
        # The scale and the deviation are those of all losses: ratios of slopes are compared.
        raw = np.log1p((losses - 0.1) / (np.median(losses) - 0.1))
        moved = np.log1p((losses + step - 0.1) / (np.median(losses) - 0.1))
        np.testing.assert_allclose(slopes * raw.std(), (moved - raw) / step, rtol=1e-4)

    def test_what_is_much_worse_is_equally_bad(self) -> None:
        losses = np.array([0.0, 1.0, 2.0, 1e3, 1e30, np.inf])
        values, slopes = standardised(losses)
        assert values[3] == values[4] == values[5] == values.max()
        assert np.isnan(slopes[3:]).all() and np.isfinite(slopes[:3]).all()

    def test_the_order_of_losses_remains(self) -> None:
        losses = np.random.default_rng(0).lognormal(size=30)
        capped = np.minimum(
            losses, losses.min() + CEILING * (np.median(losses[:10]) - losses.min())
        )
        assert (
            np.argsort(standardised(losses)[0], kind="stable") == np.argsort(capped, kind="stable")
        ).all()

    @pytest.mark.parametrize("losses", [[1e308, -1e308, 0.0], [5e-324, 0.0, 1e-323]], ids=str)
    def test_the_largest_and_smallest_losses_are_numbers(self, losses: list[float]) -> None:
        values, slopes = standardised(np.array(losses))
        assert np.isfinite(values).all() and not np.isinf(slopes).any()

    @pytest.mark.parametrize("losses", [[np.inf] * 3, [0.5], [0.5] * 4, [0.5, np.inf]])
    def test_losses_that_tell_nothing_are_no_error(self, losses: list[float]) -> None:
        values, slopes = standardised(np.array(losses))
        assert np.isfinite(values).all() and len(slopes) == len(losses)

    def test_good_losses_differ_although_most_runs_fail(self) -> None:
        """As where most learning rates of a range train nothing (LeNet on MNIST)."""
        good, failed = [0.057, 0.079, 0.14, 0.05], [2.3, 2.31, 2.3, 4.6, 2.32, np.inf]
        values, _ = standardised(np.array([*good, *failed, 0.044, 0.037, 2.3, 2.3]))
        assert values[1] - values[-3] > 0.3
        assert np.ptp(values[4:10]) < 1e-9  # all failed ones are alike

    def test_a_failure_or_two_do_not_change_the_scale(self) -> None:
        losses = np.array([0.5, 0.3, 0.2, 0.4, 0.25])
        values, _ = standardised(np.append(losses, [2.3, 4.6]))
        raw = np.log1p((losses - 0.2) / (0.4 - 0.2))  # by the median of all
        expected = (raw - raw[0]) / (raw[1] - raw[0])
        np.testing.assert_allclose((values[:5] - values[0]) / (values[1] - values[0]), expected)


class TestNextPoint:
    def test_the_model_leads_to_the_optimum(self) -> None:
        runs, coordinates = bowl(5), Coordinates((1, 1))
        for number in range(5, 20):
            point = Surrogate(runs, coordinates).next_point(NOTHING, 0, number)
            loss = ((point - OPTIMUM) ** 2).sum()
            runs = runs_of(np.vstack([runs.points, point]), np.append(runs.losses, loss))
        assert runs.losses.min() < 1e-3

    def test_a_pending_point_is_not_proposed_again(self) -> None:
        model = Surrogate(bowl(12), Coordinates((1, 1)))
        first = model.next_point(NOTHING, 0, 12)
        second = model.next_point(first[None], 0, 13)
        third = model.next_point(np.stack([first, second]), 0, 15)
        assert min(np.abs(a - b).max() for a, b in ((first, second), (second, third))) > 0.01

    def test_a_best_point_runs_again_unless_losses_are_exact(self) -> None:
        runs = bowl(12, noise=0.05)
        model = Surrogate(runs, Coordinates((1, 1)))
        again = model.next_point(NOTHING, 0, 14)
        assert (runs.points == again).all(axis=1).any()
        twice = runs_of(np.vstack([runs.points, again]), np.append(runs.losses, runs.losses[0]))
        twice.losses[-1] = runs.losses[(runs.points == again).all(axis=1)][0]
        elsewhere = Surrogate(twice, Coordinates((1, 1))).next_point(NOTHING, 0, 14)
        assert not (runs.points == elsewhere).all(axis=1).any()

    def test_runs_that_all_diverged_are_no_error(self) -> None:
        runs = runs_of(np.random.default_rng(0).random((8, 2)), np.full(8, np.inf))
        point = Surrogate(runs, Coordinates((1, 1))).next_point(NOTHING, 0, 9)
        assert ((point >= 0) & (point <= 1)).all()


class TestWorthHypergradient:
    def test_not_of_few_hyperparameters(self) -> None:
        model = Surrogate(bowl(15, with_slopes=True), Coordinates((1, 1)))
        assert not any(model.worth_hypergradient(15, n) for n in range(16))

    def test_one_is_wanted_now_and_then_to_learn_how_noisy_they_are(self) -> None:
        coordinates = Coordinates((16,))
        n = Surrogate(bowl(0, 16), coordinates).n_first
        later = n + PROBE_EVERY
        assert not Surrogate(bowl(n - 1, 16), coordinates).worth_hypergradient(n - 1, 0)
        assert Surrogate(bowl(n, 16), coordinates).worth_hypergradient(n, 0)
        assert Surrogate(bowl(later, 16), coordinates).worth_hypergradient(later, 1)
        # Two were wanted, and none came.
        assert not Surrogate(bowl(later, 16), coordinates).worth_hypergradient(later, 2)

    @pytest.mark.parametrize("size", [4.0, 1e9], ids=["noise", "exploded"])
    def test_while_the_model_finds_them_exact_but_not_when_they_are_noise(
        self, size: float
    ) -> None:
        coordinates, exact = Coordinates((1,) * 18), bowl(15, 18, with_slopes=True)
        assert Surrogate(exact, coordinates).worth_hypergradient(15, 2)
        assert not Surrogate(exact, coordinates).worth_hypergradient(15, 15)
        assert Surrogate(exact, coordinates).worth_hypergradient(200, 60)  # of 200 runs, 15 count
        noise = size * np.random.default_rng(1).normal(size=exact.slopes.shape)
        noisy = Surrogate(exact._replace(slopes=noise), coordinates)
        assert not noisy.worth_hypergradient(15, 2)


class TestBestRun:
    def test_it_is_chosen_by_the_model_not_by_luck(self) -> None:
        coordinates = Coordinates((1, 1))
        worse = 0
        for seed in range(10):
            rng = np.random.default_rng(seed)
            points = rng.random((40, 2))
            true = 4 * ((points - OPTIMUM) ** 2).sum(axis=1)
            losses = true + 0.3 * rng.normal(size=40)
            worse += (
                true[Surrogate(runs_of(points, losses), coordinates).best_run()]
                - true[losses.argmin()]
            )
        assert worse < 0

    def test_repeated_losses_of_a_point_count_by_their_mean(self) -> None:
        points = np.repeat(np.array([[0.1, 0.1], [0.5, 0.5], [0.9, 0.9], [0.2, 0.8]]), 3, axis=0)
        losses = np.array([0.0, 3.0, 3.0, *[1.0] * 3, *[2.0] * 3, *[2.0] * 3])
        assert Surrogate(runs_of(points, losses), Coordinates((1, 1))).best_run() == 3

    def test_a_diverged_run_is_not_recommended(self) -> None:
        runs = bowl(6)
        losses = np.where(np.arange(6) == 4, runs.losses, np.inf)
        assert Surrogate(runs._replace(losses=losses), Coordinates((1, 1))).best_run() == 4
