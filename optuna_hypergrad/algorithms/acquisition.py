"""The next point of a search: where a Gaussian process expects the largest improvement."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_ndtr
from scipy.stats import qmc

from optuna_hypergrad.algorithms.coordinates import Coordinates, one_hot
from optuna_hypergrad.algorithms.failures import Failures
from optuna_hypergrad.algorithms.gaussian_process import GaussianProcess
from optuna_hypergrad.algorithms.ranges import Array

PRIOR_WEIGHT = 10.0  # observations, after which the prior counts once
N_UNIFORM, N_LOCAL, N_REFINED = 256, 512, 4
TILT = 0.12  # of the windows of a schedule in the first design, as a fraction of the range


def log_expected_improvement(z: Array) -> tuple[Array, Array]:
    """log E max(0, z + ε) for a standard normal ε, and its derivative, Φ / (φ + z Φ).

    Example:
        >>> value, slope = log_expected_improvement(np.array([0.0, -40.0]))
        >>> value.round(2), slope.round(2)
        (array([  -0.92, -808.3 ]), array([ 1.25, 40.05]))
    """
    z = np.asarray(z, dtype=float)
    log_density = -0.5 * z**2 - 0.5 * np.log(2 * np.pi)
    log_cdf = log_ndtr(z)
    ratio = np.exp(np.minimum(log_cdf - log_density, 500.0))  # Φ/φ
    inner = 1.0 + z * ratio
    far, sure = z < -25.0, z > 30.0  # z + ε is positive
    safe = np.where(far | sure, 1.0, np.maximum(inner, 1e-300))
    value = log_density + np.where(far, -2 * np.log(np.maximum(-z, 1.0)), np.log(safe))
    slope = np.where(far, -z + 2 / np.maximum(-z, 1.0), ratio / safe)
    large = np.maximum(z, 1.0)
    return np.where(sure, np.log(large), value), np.where(sure, 1 / large, slope)


def first_design(coordinates: Coordinates, index: int, seed: int) -> Array:
    """A point of a low-discrepancy sequence: levels of the groups, tilted, and choices."""
    n_groups, choices = len(coordinates.groups), coordinates.choices
    sequence = qmc.Halton(n_groups + len(choices), seed=seed)
    sequence.fast_forward(index)
    drawn = sequence.random(1)
    rng = np.random.default_rng([seed, index])
    shape = TILT * rng.normal(size=(1, n_groups, 2)) / np.array([1.0, 2.0])
    numeric = coordinates.spread(drawn[:, :n_groups], shape)[0]
    codes = [int(u * n) for u, n in zip(drawn[0, n_groups:], choices, strict=True)]
    return np.concatenate([numeric, one_hot(codes, choices)])


class Acquisition:
    """Logarithm of the expected improvement and of a prior, less a penalty where runs may fail.

    Expected improvement alone is largest in corners while little is known: they are farthest from
    all runs. So it is multiplied by a prior of where good points are, to a power that falls with
    the number of observations.

    Args:
        process: The posterior.
        coordinates: Of its points.
        target: The value to be improved on.
        failures: How likely a run fails, where many do.

    Reference:
        "πBO: Augmenting Acquisition Functions with User Beliefs for Bayesian Optimization".
    """

    def __init__(
        self,
        process: GaussianProcess,
        coordinates: Coordinates,
        target: float,
        failures: Failures | None = None,
    ) -> None:
        self._process, self._target, self._failures = process, target, failures
        self._means, precisions = coordinates.prior
        self._precisions = PRIOR_WEIGHT / process.n_observed * precisions

    def at(self, x: Array) -> Array:
        """Of points given by their coordinates, shape (k, components)."""
        mean, deviation = self._process.predict(x)
        improvement, _ = log_expected_improvement((self._target - mean) / deviation)
        of_prior = -0.5 * (x - self._means) ** 2 @ self._precisions
        penalty = self._failures.penalty(x) if self._failures else 0.0
        return np.asarray(improvement + np.log(deviation) + of_prior + penalty)

    def gradient(self, x: Array) -> tuple[float, Array]:
        """Of one point, shape (components,), with its gradient."""
        mean, deviation, d_mean, d_deviation = self._process.predict_slopes(x)
        z = (self._target - mean) / deviation
        improvement, slope = (part.item() for part in log_expected_improvement(np.array(z)))
        d_z = (-d_mean - z * d_deviation) / deviation
        far = (x - self._means) * self._precisions
        value = improvement + np.log(deviation) - 0.5 * float((x - self._means) @ far)
        d_value = slope * d_z + d_deviation / deviation - far
        if self._failures is None:
            return value, d_value
        penalty, d_penalty = self._failures.penalty_slopes(x)
        return value + penalty, d_value + d_penalty


def best_acquisition(
    process: GaussianProcess,
    coordinates: Coordinates,
    evaluated: Array,
    rng: np.random.Generator,
    is_exhausted: Callable[[Array], bool] = lambda point: False,
    failures: Failures | None = None,
) -> Array:
    """The point of the unit cube with the best ``Acquisition``.

    It is to improve on the smallest mean at an evaluated point, as losses are noisy.

    Args:
        process: The posterior.
        coordinates: Of its points.
        evaluated: Points of the unit cube that are to be improved on, shape (n, dimension).
        rng: Draws the candidates.
        is_exhausted: Whether a point has run so often that another one is to be found. If all are,
            as in a small space, the best one is.
        failures: How likely a run fails, where many do.
    """
    means, _ = process.predict(coordinates.of(evaluated))
    incumbents = evaluated[np.argsort(means)[:3]]
    acquisition = Acquisition(process, coordinates, float(means.min()), failures)
    candidates = np.vstack(
        [_uniform(coordinates, rng), _local(coordinates, incumbents, rng), incumbents]
    )
    order = np.argsort(-acquisition.at(coordinates.of(candidates)), kind="stable")
    found = [_refined(acquisition, coordinates, candidates[i]) for i in order[:N_REFINED]]
    refined = [point for _, point in sorted(found, key=lambda pair: -pair[0])]
    in_order = (*refined, *(candidates[i] for i in order))
    return next((point for point in in_order if not is_exhausted(point)), refined[0])


def _refined(
    acquisition: Acquisition, coordinates: Coordinates, start: Array
) -> tuple[float, Array]:
    n = coordinates.n_numeric
    basis = coordinates.basis[:n]

    def negative(numeric: Array) -> tuple[float, Array]:
        u = np.concatenate([numeric, start[n:]])
        value, gradient = acquisition.gradient(coordinates.of(u[None])[0])
        return -value, -(basis @ gradient)

    if not n:
        return -negative(start[:0])[0], start
    result = minimize(
        negative,
        start[:n],
        jac=True,
        method="L-BFGS-B",
        bounds=[(0.0, 1.0)] * n,
        options={"maxiter": 30},
    )
    return -float(result.fun), np.concatenate([np.clip(result.x, 0.0, 1.0), start[n:]])


def _uniform(coordinates: Coordinates, rng: np.random.Generator) -> Array:
    n_groups = len(coordinates.groups)
    level = rng.random((N_UNIFORM, n_groups))
    shape = TILT * rng.normal(size=(N_UNIFORM, n_groups, 4)) / np.arange(1.0, 5.0)
    codes = [_codes(coordinates, rng) for _ in range(N_UNIFORM)]
    return np.hstack([coordinates.spread(level, shape), np.array(codes)])


def _local(coordinates: Coordinates, around: Array, rng: np.random.Generator) -> Array:
    """Points near others: shifted levels, shapes and single values, and sometimes choices."""
    n, n_groups, d = N_LOCAL, len(coordinates.groups), coordinates.n_numeric
    base = around[rng.integers(len(around), size=n)]
    scale = 10.0 ** rng.uniform(-2, -0.5, size=(n, 1))
    moves = rng.random((n, n_groups)) < rng.uniform(0.2, 1.0, size=(n, 1))
    level = scale * rng.normal(size=(n, n_groups)) * moves
    shape = (scale * moves)[..., None] * rng.normal(size=(n, n_groups, 6))
    shape = shape / np.arange(1.0, 7.0)
    step = coordinates.spread(0.5 + level / 2, shape / 2) * 2 - 1 if n_groups else np.empty((n, 0))
    numeric = np.clip(base[:, :d] + step, 0.0, 1.0)
    codes = base[:, d:].copy()
    for i in np.flatnonzero(rng.random(n) < 0.3) if coordinates.choices else ():
        codes[i] = _codes(coordinates, rng)
    return np.hstack([numeric, codes])


def _codes(coordinates: Coordinates, rng: np.random.Generator) -> Array:
    drawn = [int(rng.integers(n)) for n in coordinates.choices]
    return one_hot(drawn, coordinates.choices)
