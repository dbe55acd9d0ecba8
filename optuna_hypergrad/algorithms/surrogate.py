"""A model of noisy losses and hypergradients over the unit cube: fit, next point, best run."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from optuna_hypergrad.algorithms.acquisition import first_design, most_promising
from optuna_hypergrad.algorithms.coordinates import Coordinates
from optuna_hypergrad.algorithms.gaussian_process import Data, GaussianProcess, fit
from optuna_hypergrad.algorithms.ranges import Array

N_SCALE = 10  # first runs, whose losses set the scale
CEILING = 3.0  # of losses above the best, in scales; what is worse is equally bad
STEEPEST = 30.0  # root mean square of slopes, in losses' deviations per range; others are dropped
REPEAT, MAX_REPEATS = 5, 3  # every how many runs the best point runs again, and how often
PRICE = 6.0  # of a hypergradient, in plain trainings: 4 to 10 are measured
FEWEST, MOST_FIRST = 5, 10  # runs that are spread over the space before the model decides
MAX_SLOPES = 512  # of the best runs, that the process is fitted to
PROBE = 15  # runs, of which one has a hypergradient in any case
SLOPE_VARIANCE = 5.0 / 3.0  # of a Matérn process with signal 1, per length scale
SHORTLIST = 0.25  # share of the runs, by their own losses, from which the best is chosen


class Runs(NamedTuple):
    """Finished runs, in the order in which they began."""

    points: Array  # in the unit cube, categories in one-hot code, shape (n, d)
    losses: Array  # shape (n,); infinite where a run diverged
    slopes: Array  # hypergradients by the point, shape (n, d); NaN where unknown


def standardised(losses: Array) -> tuple[Array, Array]:
    """Losses on a logarithmic scale above the best one, and their derivatives by the losses.

    The logarithm is linear near the best loss, where differences count, and flat far from it: a
    diverged run says no more than that it is bad. Derivatives are NaN beyond ``CEILING``.

    Example:
        >>> standardised(np.array([0.1, 0.2, 0.4, np.inf]))[0].round(2)
        array([-1.51, -0.3 ,  0.9 ,  0.9 ])
    """
    if not np.isfinite(losses).any():
        return np.zeros(len(losses)), np.full(len(losses), np.nan)
    best, scale = _scale(losses)
    above = np.minimum(losses - best, CEILING * scale)
    values = np.log1p(above / scale)
    slopes = np.where(above < CEILING * scale, 1.0 / (scale + above), np.nan)
    deviation = float(values.std()) or 1.0
    return (values - values.mean()) / deviation, slopes / deviation


def loss_at(value: float, losses: Array) -> float:
    """The loss whose standardised value is this, given the losses of all runs.

    Example:
        >>> losses = np.array([0.1, 0.2, 0.4, np.inf])
        >>> round(loss_at(standardised(losses)[0][1], losses), 6)
        0.2
    """
    best, scale = _scale(losses)
    known = np.log1p(np.minimum(losses - best, CEILING * scale) / scale)
    deviation = float(known.std()) or 1.0
    return best + scale * math.expm1(float(known.mean()) + deviation * value)


def _scale(losses: Array) -> tuple[float, float]:
    """The best loss, and the scale of differences to it; one loss at least is finite."""
    finite = losses[np.isfinite(losses)]
    best = float(finite.min())
    first = losses[:N_SCALE]
    first = first[np.isfinite(first)]
    scale = float(np.median(first)) - best if len(first) else 0.0
    scale = scale if scale > 0 else float(finite.max()) - best
    return best, scale if scale > 0 else 1.0


class Surrogate:
    """The Gaussian process of some runs, and what follows from it.

    Args:
        runs: At least one for whatever needs the process.
        coordinates: Of their points.
    """

    def __init__(self, runs: Runs, coordinates: Coordinates) -> None:
        self.runs = runs
        self._values, factors = standardised(runs.losses)
        slopes = runs.slopes * factors[:, None]
        known = np.isfinite(slopes)
        power = (np.where(known, slopes, 0.0) ** 2).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
        usable = np.flatnonzero(known.any(axis=1) & (power < STEEPEST**2))
        best = usable[np.argsort(runs.losses[usable], kind="stable")]
        self._at = np.sort(best[: max(2, MAX_SLOPES // max(1, coordinates.n_slopes))])
        self._slopes = slopes[self._at]
        directions = self._slopes[:, : coordinates.n_numeric]
        self.coordinates = replace(coordinates, slopes=directions if len(self._at) else None)

    @cached_property
    def process(self) -> GaussianProcess:
        """The process with the most probable hyperparameters, fitted once."""
        own = self.coordinates
        slopes = own.slopes_of(self._slopes)
        data = Data(own.of(self.runs.points), self._values, slopes, self._at)
        return fit(data, own.kinds, own.lengths, own.length_spreads)

    @property
    def n_first(self) -> int:
        """How many runs are spread over the space before the process decides."""
        n_choices = sum(self.coordinates.choices)
        return min(MOST_FIRST, max(FEWEST, len(self.coordinates.groups) + n_choices + 2))

    def next_point(self, pending: Array, seed: int, number: int) -> Array:
        """Where the next run should be, shape (d,).

        After the first runs, the point with the largest expected improvement, or, every fifth time,
        the best one once more: its loss may have been low by chance.

        Args:
            pending: Points that still run, shape (k, d). They count as runs with the loss that is
                expected there, so that the next point is another one.
            seed: Seeds the draws, with ``number``.
            number: Of the run.
        """
        if len(self.runs.losses) < self.n_first:
            return first_design(self.coordinates, number, seed)
        if number % REPEAT == REPEAT - 1:
            best = self.runs.points[self.best_run()]
            n_runs = sum(np.isclose(best, other).all() for other in (*self.runs.points, *pending))
            if n_runs <= MAX_REPEATS and not self._is_exact:
                return np.asarray(best)
        rng = np.random.default_rng([seed, number])
        process = self._believing(pending)
        known = np.vstack([self.runs.points, pending])  # what is expected of these is no news
        return most_promising(process, self.coordinates, known, rng)

    def worth_hypergradient(self, n_asked: int) -> bool:
        """Whether the hypergradient of the next run is worth its price.

        Its slopes tell as much as a loss each, less what is noise in them, but only of one place;
        so they must be twice as many as the plain runs of the same price. Their noise is known once
        some have been reported, so now and then one is wanted in any case.

        Args:
            n_asked: How many runs were to have one.
        """
        n, n_slopes = len(self.runs.losses) - self.n_first, self.coordinates.n_slopes
        if n < 0 or n_slopes < 2 * PRICE:
            return False
        if n_asked <= n // PROBE:
            return True
        if not len(self.process.data.at) and np.isfinite(self.runs.slopes).any():
            return False  # all that were reported exploded
        h = self.process.hyperparameters
        power = SLOPE_VARIANCE * h.signal**2
        noise = h.slope_noise**2 + h.relative_noise**2 * power
        return n_slopes * power / (power + noise) > 2 * PRICE and 2 * n_asked <= n + 1

    def best_run(self) -> int:
        """The run at the point that is to be recommended.

        Of the best quarter of the points, by the mean of their losses, the one with the smallest
        sum of the expected loss and its standard deviation: points that ran several times are
        better known.
        """
        limit = np.minimum(self.runs.losses, np.finfo(float).max)
        first, own = self._distinct
        means = np.bincount(own, limit) / np.bincount(own)
        count = max(1, math.ceil(SHORTLIST * len(means)))
        shortlist = first[np.argsort(means, kind="stable")[:count]]
        if count == 1:
            return int(shortlist[0])
        mean, deviation = self.process.predict(self.coordinates.of(self.runs.points[shortlist]))
        return int(shortlist[np.argmin(mean + deviation)])

    def expected_loss(self, point: Array) -> float:
        """The loss that is expected at a point, shape (d,)."""
        mean, _ = self.process.predict(self.coordinates.of(point[None]))
        return loss_at(float(mean[0]), self.runs.losses)

    @cached_property
    def _distinct(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The first run at each distinct point, and which of these points each run was at."""
        points = np.round(self.runs.points, 9)
        _, first, own = np.unique(points, axis=0, return_index=True, return_inverse=True)
        return first, own.ravel()

    @property
    def _is_exact(self) -> bool:
        """Whether runs of one point have had the same loss."""
        _, own = self._distinct
        repeated = [self.runs.losses[own == i] for i in np.flatnonzero(np.bincount(own) > 1)]
        return bool(repeated) and all(np.ptp(losses) == 0 for losses in repeated)

    def _believing(self, pending: Array) -> GaussianProcess:
        if not len(pending):
            return self.process
        data, x = self.process.data, self.coordinates.of(pending)
        y = np.concatenate([data.y, self.process.predict(x)[0]])
        believed = Data(np.vstack([data.x, x]), y, data.slopes, data.at)
        return GaussianProcess(believed, self.process.hyperparameters)
