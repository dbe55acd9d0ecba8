"""A model of noisy losses and hypergradients over the unit cube: fit, next point, best run."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from optuna_hypergrad.algorithms.acquisition import best_improvement, first_design
from optuna_hypergrad.algorithms.coordinates import Coordinates
from optuna_hypergrad.algorithms.gaussian_process import Data, GaussianProcess, fit
from optuna_hypergrad.algorithms.ranges import Array

N_SCALE = 10  # first runs, whose losses set the scale
CEILING = 3.0  # of losses above the best, in scales; what is worse is equally bad
STEEPEST = 30.0  # root mean square of slopes, in losses' deviations per range; others are dropped
FEWEST, MOST_FIRST = 5, 10  # runs that are spread over the space before the model decides
FEW, MANY = 3, 20  # hyperparameters, of which a hypergradient is never or often worth its price
SHORTLIST = 0.25  # share of the runs, by their own losses, from which the best is chosen


class Runs(NamedTuple):
    """Finished runs, in the order in which they ended."""

    points: Array  # in the unit cube, categories in one-hot code, shape (n, d)
    losses: Array  # shape (n,); infinite where a run diverged
    slopes: Array  # hypergradients by the point, shape (n, d); NaN where unknown


def standardised(losses: Array) -> tuple[Array, Array]:
    """Losses on a logarithmic scale above the best one, and their derivatives by the losses.

    The logarithm is linear near the best loss, where differences count, and flat far from it: a
    diverged run says no more than that it is bad. Derivatives are NaN beyond ``CEILING``.

    Example:
        >>> standardised(np.array([0.1, 0.2, 0.4, np.inf]))[0].round(2)
        array([-1.26, -0.55,  0.29,  1.52])
    """
    finite = losses[np.isfinite(losses)]
    if not len(finite):
        return np.zeros(len(losses)), np.full(len(losses), np.nan)
    best = finite.min()
    first = losses[:N_SCALE]
    first = first[np.isfinite(first)]
    scale = float(np.median(first)) - best if len(first) else 0.0
    scale = scale if scale > 0 else float(finite.max()) - best
    scale = scale if scale > 0 else 1.0
    above = np.minimum(losses - best, CEILING * scale)
    values = np.log1p(above / scale)
    slopes = np.where(above < CEILING * scale, 1.0 / (scale + above), np.nan)
    deviation = float(values.std()) or 1.0
    return (values - values.mean()) / deviation, slopes / deviation


def fit_runs(runs: Runs, coordinates: Coordinates, pending: Array | None = None) -> GaussianProcess:
    """The Gaussian process of some runs.

    Args:
        runs: At least one.
        coordinates: Of their points.
        pending: Points that still run, shape (k, d). They count as runs with the loss that is
            expected there, so that the next point is another one.
    """
    values, factors = standardised(runs.losses)
    slopes = coordinates.slopes_of(runs.slopes * factors[:, None])
    known = np.isfinite(slopes)
    square = (np.where(known, slopes, 0.0) ** 2).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    at = np.flatnonzero(known.any(axis=1) & (square < STEEPEST**2))
    data = Data(coordinates.of(runs.points), values, slopes[at], at)
    process = fit(data, coordinates.kinds, coordinates.lengths)
    if pending is None or not len(pending):
        return process
    x = coordinates.of(pending)
    believed = Data(
        np.vstack([data.x, x]), np.concatenate([values, process.predict(x)[0]]), slopes[at], at
    )
    return GaussianProcess(believed, process.hyperparameters)


def next_point(
    runs: Runs, coordinates: Coordinates, pending: Array, seed: int, number: int
) -> Array:
    """Where the next run should be, shape (d,).

    Args:
        runs: The finished runs.
        coordinates: Of their points.
        pending: Points that still run, shape (k, d).
        seed: Seeds the draws, with ``number``.
        number: Of the run.
    """
    if len(runs.losses) < n_first(coordinates):
        return first_design(coordinates, number, seed)
    process = fit_runs(runs, coordinates, pending)
    rng = np.random.default_rng([seed, number])
    return best_improvement(process, coordinates, runs.points, rng)


def n_first(coordinates: Coordinates) -> int:
    """How many runs are spread over the space before the model decides."""
    return min(MOST_FIRST, max(FEWEST, len(coordinates.groups) + len(coordinates.choices) + 2))


def worth_hypergradient(coordinates: Coordinates, n_finished: int, n_with_slopes: int) -> bool:
    """Whether the hypergradient of the next run is worth its price.

    Args:
        coordinates: Of the search space.
        n_finished: Number of finished runs.
        n_with_slopes: How many of them have a hypergradient.
    """
    if coordinates.n_numeric <= FEW or n_finished < n_first(coordinates):
        return False
    share = 0.5 if coordinates.n_numeric >= MANY else 0.2
    return n_with_slopes < share * (1 + n_finished - n_first(coordinates))


def best_run(runs: Runs, coordinates: Coordinates) -> int:
    """The run with the smallest expected loss: the one to be recommended.

    Its own loss may be low by chance, so the model's mean decides among the best quarter.
    """
    losses = np.where(np.isfinite(runs.losses), runs.losses, np.inf)
    limit = np.partition(losses, int(SHORTLIST * (len(losses) - 1)))[
        int(SHORTLIST * (len(losses) - 1))
    ]
    shortlist: NDArray[np.int64] = np.flatnonzero(losses <= limit)
    if len(shortlist) < 2:
        return int(shortlist[0])
    process = fit_runs(runs, coordinates)
    means, _ = process.predict(coordinates.of(runs.points[shortlist]))
    return int(shortlist[np.argmin(means)])
