"""A model of noisy losses and hypergradients over the unit cube: fit, next point, best run."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from optuna_hypergrad.algorithms.acquisition import best_acquisition, first_design
from optuna_hypergrad.algorithms.coordinates import Coordinates
from optuna_hypergrad.algorithms.failures import CAUTION, Failures
from optuna_hypergrad.algorithms.gaussian_process import Data, GaussianProcess, fit
from optuna_hypergrad.algorithms.loss_scale import LARGEST, LossScale
from optuna_hypergrad.algorithms.ranges import Array

STEEPEST = 30.0  # root mean square of slopes, in losses' deviations per range; others are dropped
REPEAT_EVERY = 5  # runs, of which one repeats the best point
MAX_RUNS_OF_A_POINT = 4
PRICE = 6.0  # of a hypergradient, in plain trainings: 4 to 10 are measured
FEWEST_SLOPES = 2 * PRICE  # of a hypergradient that may be worth its price
FEWEST, MOST_FIRST = 5, 10  # runs that are spread over the space before the model decides
MAX_SLOPES = 512  # of the best runs, that the process is fitted to
PROBE_EVERY = 15  # runs, of which one has a hypergradient in any case
SLOPE_VARIANCE = 5.0 / 3.0  # of a Matérn process with signal 1, per length scale
DIGITS = 9  # of a point's numbers that tell it from others
LEAP, N_ATTEMPTS = 1009, 16  # in the sequence of the first design, to points that did not run
SHORTLIST = 0.25  # share of the runs, by their own losses, from which the best is chosen


class Runs(NamedTuple):
    """Finished runs, in the order in which they began."""

    points: Array  # in the unit cube, categories in one-hot code, shape (n, d)
    losses: Array  # shape (n,); infinite where a run diverged
    slopes: Array  # hypergradients by the point, shape (n, d); NaN where unknown


class Surrogate:
    """The Gaussian process of some runs, and what follows from it.

    Args:
        runs: At least one for whatever needs the process.
        coordinates: Of their points.
        rounded: Where a point really runs: integers and steps round it.
    """

    def __init__(
        self,
        runs: Runs,
        coordinates: Coordinates,
        rounded: Callable[[Array], Array] = np.asarray,
    ) -> None:
        self.runs = runs
        self._round = rounded
        self._scale = LossScale(runs.losses)
        self._kept = ~self._scale.failed  # runs that the process is fitted to
        losses, slopes = runs.losses[self._kept], runs.slopes[self._kept]
        slopes = np.clip(slopes, -LARGEST, LARGEST) * self._scale.slopes(losses)[:, None]
        slopes = np.clip(slopes, -LARGEST, LARGEST)
        known = np.isfinite(slopes)
        power = (np.where(known, slopes, 0.0) ** 2).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
        usable = np.flatnonzero(known.any(axis=1) & (power < STEEPEST**2))
        best = usable[np.argsort(losses[usable], kind="stable")]
        count = max(2, MAX_SLOPES // max(1, coordinates.n_slopes))
        directions = slopes[np.sort(best[:count]), : coordinates.n_numeric]
        self.coordinates = replace(coordinates, slopes=directions if len(best) else None)
        count = max(2, MAX_SLOPES // max(1, self.coordinates.n_slopes))  # directions add some
        self._at = np.sort(best[:count])
        self._slopes = slopes[self._at]

    @cached_property
    def _x(self) -> Array:
        """The coordinates of all runs."""
        return self.coordinates.of(self.runs.points)

    @cached_property
    def process(self) -> GaussianProcess:
        """The process with the most probable hyperparameters, fitted once."""
        own = self.coordinates
        slopes = own.slopes_of(self._slopes)
        values = self._scale.standardised(self.runs.losses[self._kept])
        data = Data(self._x[self._kept], values, slopes, self._at)
        return fit(data, own.kinds, own.lengths, own.length_spreads)

    @cached_property
    def failures(self) -> Failures | None:
        """How likely a run fails; None unless half of the first runs did."""
        failed = self._scale.failed
        return Failures(self._x, failed, self.coordinates) if failed.any() else None

    @property
    def n_first(self) -> int:
        """How many runs are spread over the space before the process decides."""
        n_choices = sum(self.coordinates.choices)
        return min(MOST_FIRST, max(FEWEST, len(self.coordinates.groups) + n_choices + 2))

    def next_point(self, pending: Array, seed: int, number: int) -> Array:
        """Where the next run should be, shape (d,).

        After the first runs, the point with the best acquisition, or, every fifth time, the best
        one once more: its loss may have been low by chance. While all losses are the same, runs
        are spread over the space.

        Args:
            pending: Points that still run, shape (k, d). They count as runs with the loss that is
                expected there (fantasies), so that the next point is another one.
            seed: Seeds the draws, with ``number``.
            number: Of the run.
        """
        known = np.vstack([self.runs.points, pending])
        if self.knows_little:
            return self._spread(known, seed, number)
        best = self.repetition(pending, number)
        if best is not None:
            return best
        rng = np.random.default_rng([seed, number])
        process = self._with_fantasies(pending)
        most = 1 if self._is_exact else MAX_RUNS_OF_A_POINT

        def is_exhausted(point: Array) -> bool:
            return int(at_point(known, self._round(point)).sum()) >= most

        # Where many fail, the process knows nothing of that: what is pending may lie there.
        to_improve = known if self.failures is None else self.runs.points[self._kept]
        return best_acquisition(
            process, self.coordinates, to_improve, rng, is_exhausted, self.failures
        )

    def _spread(self, known: Array, seed: int, number: int) -> Array:
        """A point of the first design; one that did not run, if there are any."""
        points = (
            first_design(self.coordinates, number + k * LEAP, seed) for k in range(N_ATTEMPTS)
        )
        first = next(points)
        if len(self.runs.losses) < self.n_first:
            return first
        fresh = (p for p in (first, *points) if not at_point(known, self._round(p)).any())
        return next(fresh, first)

    def repetition(self, pending: Array, number: int) -> Array | None:
        """The best point, if a run repeats it; see ``next_point``."""
        is_due = number % REPEAT_EVERY == REPEAT_EVERY - 1
        if not is_due or self.knows_little or self._is_exact:
            return None
        known = np.vstack([self.runs.points, pending])
        best = np.asarray(self.runs.points[self.best_run()])
        return best if int(at_point(known, best).sum()) < MAX_RUNS_OF_A_POINT else None

    def worth_hypergradient(self, n_runs: int, n_asked: int) -> bool:
        """Whether the hypergradient of the next run is worth its price.

        Its slopes tell as much as a loss each, less what is noise in them, but only of one place;
        so they must be twice as many as the plain runs of the same price. Their noise is known once
        some have been reported, so now and then one is wanted in any case.

        Args:
            n_runs: How many runs there were, also those that the process is not fitted to.
            n_asked: How many runs were to have one, whatever became of them.
        """
        n, n_slopes = n_runs - self.n_first, self.coordinates.n_slopes
        if n < 0 or n_slopes < FEWEST_SLOPES:
            return False
        if n_asked <= n // PROBE_EVERY:
            return True
        if n_asked >= 2 and not len(self.process.data.at):
            return False  # none was reported, or all exploded, or they contradict the losses
        h = self.process.hyperparameters
        power = SLOPE_VARIANCE * h.signal**2
        noise = h.slope_noise**2 + h.relative_noise**2 * power
        return n_slopes * power / (power + noise) > FEWEST_SLOPES and 2 * n_asked <= n + 1

    def best_run(self) -> int:
        """The run at the point that is to be recommended.

        Of the best quarter of the points, by the mean of their losses, the one with the smallest
        sum of the expected loss and its standard deviation: points that ran several times are
        better known. Where many runs fail, it is twice the deviation, and the expectation over
        success and failure.
        """
        limit = np.minimum(self.runs.losses, np.finfo(float).max)
        first, own = self._distinct
        means = np.bincount(own, limit) / np.bincount(own)
        n_ended_well = int((means < np.finfo(float).max / 2).sum())
        count = max(1, min(n_ended_well, math.ceil(SHORTLIST * len(means))))
        best = np.argsort(means, kind="stable")[:count]
        if count == 1:
            return int(first[best[0]])
        x = self._x[first[best]]
        mean, deviation = self.process.predict(x)
        bound = mean + (1.0 if self.failures is None else CAUTION) * deviation
        if self.failures is not None:
            bound += self.failures.frequency(x) * (self._scale.of_failure - bound)
        return int(first[best[np.argmin(bound)]])

    def expected_loss(self, point: Array) -> float:
        """The loss that is expected at a point, shape (d,), if the run does not fail."""
        mean, _ = self.process.predict(self.coordinates.of(point[None]))
        return self._scale.loss_at(float(mean[0]))

    @cached_property
    def _distinct(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The first run at each distinct point, and which of these points each run was at."""
        points = np.round(self.runs.points, DIGITS)
        _, first, own = np.unique(points, axis=0, return_index=True, return_inverse=True)
        return first, own.ravel()

    @property
    def knows_little(self) -> bool:
        """Whether runs are spread over the space: at first, and while all losses are the same."""
        losses = self.runs.losses
        return len(losses) < self.n_first or len(np.unique(losses)) == 1

    @property
    def _is_exact(self) -> bool:
        """Whether runs of one point have had the same loss."""
        _, own = self._distinct
        repeated = [self.runs.losses[own == i] for i in np.flatnonzero(np.bincount(own) > 1)]
        return bool(repeated) and all(np.ptp(losses) == 0 for losses in repeated)

    def _with_fantasies(self, pending: Array) -> GaussianProcess:
        if not len(pending):
            return self.process
        data, x = self.process.data, self.coordinates.of(pending)
        y = np.concatenate([data.y, self.process.predict(x)[0]])
        with_fantasies = Data(np.vstack([data.x, x]), y, data.slopes, data.at)
        return GaussianProcess(with_fantasies, self.process.hyperparameters)


def at_point(points: Array, point: Array) -> NDArray[np.bool_]:
    """Which points, shape (n, d), are one given, shape (d,)."""
    return np.asarray((np.round(points, DIGITS) == np.round(point, DIGITS)).all(axis=1))
