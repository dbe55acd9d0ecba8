"""The model of runs: the next run, and the one to be recommended."""

import numpy as np
import pytest

from optuna_hypergrad.algorithms.acquisition import first_design
from optuna_hypergrad.algorithms.coordinates import Coordinates
from optuna_hypergrad.algorithms.ranges import Array
from optuna_hypergrad.algorithms.surrogate import PROBE_EVERY, Runs, Surrogate

NOTHING = np.empty((0, 2))
OPTIMUM = np.array([0.3, 0.8])


def runs_of(points: Array, losses: Array, slopes: Array | None = None) -> Runs:
    return Runs(points, losses, np.full(points.shape, np.nan) if slopes is None else slopes)


def bowl(n: int, d: int = 2, noise: float = 0.0, with_slopes: bool = False) -> Runs:
    rng = np.random.default_rng(0)
    points, optimum = rng.random((n, d)), np.resize(OPTIMUM, d)
    losses = ((points - optimum) ** 2).sum(axis=1) + noise * rng.normal(size=n)
    return runs_of(points, losses, 2 * (points - optimum) if with_slopes else None)


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

    def test_where_many_runs_fail_the_search_stays_away(self) -> None:
        """Half of the square fails, near the optimum."""
        coordinates, rng = Coordinates((1, 1)), np.random.default_rng(0)
        points = rng.random((12, 2))

        def loss(points: Array) -> Array:
            good = 0.05 + 0.2 * ((points - np.array([0.42, 0.6])) ** 2).sum(axis=1)
            return np.where(points[:, 0] > 0.5, 2.3, good)

        runs = runs_of(points, loss(points))
        for number in range(12, 32):
            point = Surrogate(runs, coordinates).next_point(NOTHING, 0, number)
            all_points = np.vstack([runs.points, point])
            runs = runs_of(all_points, loss(all_points))
        assert (runs.losses[12:] == 2.3).mean() < 0.2 and runs.losses.min() < 0.051

    def test_pending_points_where_runs_fail_attract_no_other(self) -> None:
        """Losses fall towards failures, where the process would expect the best of all."""
        points = np.linspace(0.02, 0.98, 16)[np.random.default_rng(0).permutation(16)][:, None]
        losses = np.where(points[:, 0] > 0.4, 30.0, 1 - 1.2 * points[:, 0])
        slopes = np.where(points > 0.4, np.nan, -1.2)
        model = Surrogate(runs_of(points, losses, slopes), Coordinates((1,)))
        assert model.failures is not None
        for pending in (np.empty((0, 1)), np.array([[0.6]]), np.array([[0.45], [0.6]])):
            assert model.next_point(pending, 0, 20)[0] < 0.5

    def test_while_nothing_is_known_no_point_of_a_small_space_runs_twice(self) -> None:
        """Of eleven values, all of which have the same loss."""
        runs, found = runs_of(np.empty((0, 1)), np.empty(0)), list[float]()
        for number in range(11):
            model = Surrogate(runs, Coordinates((1,)), lambda point: np.round(point, 1))
            point = np.round(model.next_point(np.empty((0, 1)), 0, number), 1)
            runs = runs_of(np.vstack([runs.points, point]), np.append(runs.losses, 2.3))
            found.append(float(point[0]))
        assert len({*found[5:]} - {*found[:5]}) >= 5

    @pytest.mark.parametrize("loss", [np.inf, 2.3])
    def test_while_all_runs_are_equally_bad_they_are_spread(self, loss: float) -> None:
        coordinates = Coordinates((1, 1))
        runs = runs_of(np.random.default_rng(0).random((8, 2)), np.full(8, loss))
        for number in (8, 9, 10):
            found = Surrogate(runs, coordinates).next_point(NOTHING, 0, number)
            np.testing.assert_array_equal(found, first_design(coordinates, number, 0))
        assert Surrogate(runs, coordinates).repetition(NOTHING, 9) is None


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

    @pytest.mark.parametrize("failure", [2.3, np.inf])
    def test_a_point_beside_failures_is_not_recommended(self, failure: float) -> None:
        """Two good places; around the slightly better one, a good part of the runs fail."""
        rng = np.random.default_rng(0)
        steady, risky, elsewhere = (
            centre + 0.1 * (rng.random((n, 2)) - 0.5)
            for n, centre in ((12, 0.2), (12, 0.5), (14, 0.9))
        )
        losses = np.concatenate([np.full(12, 0.05), np.full(12, 0.048), np.full(14, failure)])
        losses[:24] += 0.004 * rng.normal(size=24)
        losses[14:24:3] = failure
        points, order = np.vstack([steady, risky, elsewhere]), rng.permutation(38)
        model = Surrogate(runs_of(points[order], losses[order]), Coordinates((1, 1)))
        assert np.abs(points[order][model.best_run()] - 0.2).max() < 0.1

    def test_a_diverged_run_is_not_recommended(self) -> None:
        runs = bowl(6)
        losses = np.where(np.arange(6) == 4, runs.losses, np.inf)
        assert Surrogate(runs._replace(losses=losses), Coordinates((1, 1))).best_run() == 4
