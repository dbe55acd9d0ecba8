"""A Gaussian process over losses and their slopes, with a noise of its own for each kind.

The covariance is a Matérn kernel (ν = 5/2) of the scaled distance, so that slopes are observations
like any other: cov(∂f, f′) and cov(∂f, ∂f′) are its derivatives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize

from optuna_hypergrad.algorithms.ranges import Array

JITTER = 1e-8
MAX_ITERATIONS = 25  # of the fit; most of the gain comes with the first ten

# Means and standard deviations of the logarithms of the hyperparameters, the priors of the fit.
# Losses are standardised, slopes in standard deviations per length scale.
SIGNAL, NOISE = (0.0, 0.5), (np.log(0.1), 0.6)
SLOPE_NOISE, RELATIVE_NOISE = (np.log(0.3), 1.0), (np.log(0.7), 1.0)
EVIDENCE = 3.0  # against slopes: a ratio of e³ = 20 between predictive densities
STEEP = 3.0  # root mean square of the slopes of a run, from which on they are in doubt

Dims = NDArray[np.int64]  # indices of coordinates


class Data(NamedTuple):
    """Losses of n runs at points of dimension d, and slopes of m of them."""

    x: Array  # shape (n, d)
    y: Array  # shape (n,), standardised
    slopes: Array  # ∂y/∂x, shape (m, d); NaN where unknown
    at: NDArray[np.int64]  # the runs that the slopes belong to, shape (m,)


class Hyperparameters(NamedTuple):
    """Of the covariance and the noise."""

    lengths: Array  # of each coordinate, shape (d,)
    signal: float  # standard deviation of the function
    noise: float  # of a loss
    slope_noise: float  # of a slope times its length scale
    relative_noise: float  # the same, as a fraction of the slopes of its run (root mean square)


class _Kernel(NamedTuple):
    """κ(s) of the squared distance s, and its derivatives; each of the shape of s."""

    value: Array
    first: Array
    second: Array
    third: Array

    @classmethod
    def at(cls, s: Array) -> _Kernel:
        a = np.sqrt(5.0 * s)
        e = np.exp(-a)
        third = -125.0 / 24.0 * e / np.maximum(a, 1e-9)
        return cls((1 + a + a * a / 3) * e, -5.0 / 6.0 * (1 + a) * e, 25.0 / 12.0 * e, third)


class GaussianProcess:
    """The posterior of a function given data and hyperparameters.

    Args:
        data: What was observed.
        hyperparameters: See there.

    Raises:
        numpy.linalg.LinAlgError: If the covariance is not positive definite to rounding.

    Example:
        >>> x = np.array([[0.1], [0.5], [0.9]])
        >>> slopes, at = 2 * (x[:1] - 0.6), np.array([0])
        >>> data = Data(x, (x[:, 0] - 0.6) ** 2, slopes, at)
        >>> known = GaussianProcess(data, Hyperparameters(np.full(1, 2.0), 1.0, 1e-3, 1e-3, 0))
        >>> mean, deviation = known.predict(np.array([[0.6]]))
        >>> bool(abs(mean[0]) < 0.01)
        True
    """

    def __init__(self, data: Data, hyperparameters: Hyperparameters) -> None:
        self.data, self.hyperparameters = data, hyperparameters
        h, n = hyperparameters, len(data.x)
        self._z = data.x / h.lengths
        # Choices never have slopes; the covariances of what is unknown are not computed.
        self._dims = np.flatnonzero(np.isfinite(data.slopes).any(axis=0))
        slopes = (data.slopes * h.lengths)[:, self._dims]
        known = np.isfinite(slopes)
        count = np.maximum(known.sum(axis=1), 1)
        self._power = np.where(known, slopes, 0.0) ** 2
        self._mean_power = self._power.sum(axis=1) / count
        self._known_per_run = count
        self._keep = np.concatenate([np.ones(n, dtype=bool), known.ravel()])
        self._observed = np.concatenate([data.y, np.where(known, slopes, 0.0).ravel()])[self._keep]
        self._signal = h.signal**2 * self._covariance(self._z, self._z[data.at])
        # An exploded slope counts for nothing: beyond STEEP, its noise outgrows the slope itself.
        self._relative = self._mean_power * (1 + self._mean_power / STEEP**2)
        slope_noise = h.slope_noise**2 + h.relative_noise**2 * self._relative
        noise = np.concatenate([np.full(n, h.noise**2), np.repeat(slope_noise, len(self._dims))])
        k = (self._signal + np.diag(noise + JITTER))[np.ix_(self._keep, self._keep)]
        self._factor = cholesky(k, lower=True, check_finite=False)
        self._alpha = cho_solve((self._factor, True), self._observed, check_finite=False)

    def _covariance(self, z: Array, z_slopes: Array) -> Array:
        """The covariance of values at ``z`` and slopes at ``z_slopes``, for a signal of 1."""
        n, size = len(z), len(z) + len(z_slopes) * len(self._dims)
        full = np.empty((size, size))
        full[:n, :n] = _Kernel.at(_squares(z, z)).value
        full[:n, n:] = _value_slope(z, z_slopes, self._dims)
        full[n:, :n] = full[:n, n:].T
        full[n:, n:] = _slope_slope(z_slopes, z_slopes, self._dims, self._dims)
        return full

    @property
    def n_observed(self) -> int:
        """How many losses and slopes were observed."""
        return len(self._observed)

    def predict(self, x: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of the function at points of shape (k, d)."""
        cross = self._cross(x / self.hyperparameters.lengths)
        half = solve_triangular(self._factor, cross.T, lower=True, check_finite=False)
        variance = self.hyperparameters.signal**2 - (half**2).sum(axis=0)
        return np.asarray(cross @ self._alpha), np.sqrt(np.maximum(variance, 1e-12))

    def predict_slopes(self, x: Array) -> tuple[float, float, Array, Array]:
        """Mean and standard deviation at one point, shape (d,), and their gradients by it."""
        h = self.hyperparameters
        z = (x / h.lengths)[None]
        cross = self._cross(z)[0]
        # Rows are ∂/∂z of the point: against values minus the covariance of values and slopes.
        every = np.arange(z.shape[1])
        of_values = _value_slope(self._z, z, every).reshape(len(self._z), -1).T
        of_slopes = _slope_slope(z, self._z[self.data.at], every, self._dims)
        d_cross = h.signal**2 * np.hstack([of_values, of_slopes])[:, self._keep]
        weights = cho_solve((self._factor, True), cross, check_finite=False)
        deviation = float(np.sqrt(max(h.signal**2 - cross @ weights, 1e-12)))
        d_mean = d_cross @ self._alpha / h.lengths
        d_deviation = -(d_cross @ weights) / deviation / h.lengths
        return float(cross @ self._alpha), deviation, d_mean, d_deviation

    def _cross(self, z: Array) -> Array:
        """Covariance of the function at ``z`` and the observations."""
        values = _Kernel.at(_squares(z, self._z)).value
        slopes = _value_slope(z, self._z[self.data.at], self._dims)
        return self.hyperparameters.signal**2 * np.hstack([values, slopes])[:, self._keep]

    def loss(self) -> float:
        """Negative logarithm of the density of the observations, up to a constant."""
        known = np.isfinite(self.data.slopes)
        jacobian = -(known * np.log(self.hyperparameters.lengths)).sum()
        half_log_det = np.log(np.diag(self._factor)).sum()
        return float(0.5 * self._observed @ self._alpha + half_log_det + jacobian)

    def predictive_density(self) -> float:
        """Sum of the logarithms of each loss's density given all other observations.

        Reference:
            Rasmussen and Williams, "Gaussian Processes for Machine Learning", Eq. 5.10 to 5.12.
        """
        n = len(self.data.y)
        inverse = cho_solve((self._factor, True), np.eye(len(self._alpha)), check_finite=False)
        precision = np.diag(inverse)[:n]
        errors = self._alpha[:n] / precision
        density = np.log(precision / (2 * np.pi)) - precision * errors**2
        return 0.5 * float(density.sum())

    def loss_gradient(self) -> Hyperparameters:
        """Derivatives of ``loss`` by the logarithms of the hyperparameters."""
        h, data = self.hyperparameters, self.data
        n, m, dims = len(data.y), len(data.at), self._dims
        size = n + m * len(dims)
        inverse = cho_solve((self._factor, True), np.eye(len(self._alpha)), check_finite=False)
        b = np.zeros((size, size))
        b[np.ix_(self._keep, self._keep)] = 0.5 * (inverse - np.outer(self._alpha, self._alpha))
        alpha = np.zeros(size)
        alpha[self._keep] = self._alpha
        traces = np.diag(b)[n:].reshape(m, len(dims)).sum(axis=1)
        d_scale = h.signal**2 * _scale_gradient(b, self._z, data.at, dims)
        of_relative = 1 + 2 * self._mean_power / STEEP**2
        of_noise = 2 * h.relative_noise**2 * of_relative * traces / self._known_per_run
        d_scale[dims] -= of_noise @ self._power
        slopes = (np.where(np.isfinite(data.slopes), data.slopes, 0.0) * h.lengths)[:, dims]
        d_scale[dims] -= (alpha[n:].reshape(m, len(dims)) * slopes).sum(axis=0)
        d_scale += np.isfinite(data.slopes).sum(axis=0)
        return Hyperparameters(
            lengths=-d_scale,  # scales are 1 / lengths
            signal=2 * float((b * self._signal).sum()),
            noise=2 * h.noise**2 * float(np.diag(b)[:n].sum()),
            slope_noise=2 * h.slope_noise**2 * float(traces.sum()),
            relative_noise=2 * h.relative_noise**2 * float(traces @ self._relative),
        )


def _differences(z: Array, other: Array) -> Array:
    return z[:, None, :] - other[None, :, :]


def _squares(z: Array, other: Array) -> Array:
    squares = (z**2).sum(axis=1)[:, None] + (other**2).sum(axis=1) - 2 * z @ other.T
    return np.asarray(np.maximum(squares, 0.0))


def _value_slope(z: Array, z_slopes: Array, dims: Dims) -> Array:
    """cov(f(z), ∂f(z′)/∂z′ⱼ) = −2 κ′(s) Δⱼ for the coordinates j, shape (n, m · dims)."""
    delta = _differences(z, z_slopes)
    first = _Kernel.at((delta**2).sum(axis=2)).first
    return np.asarray((-2 * first[..., None] * delta[..., dims]).reshape(len(z), -1))


def _slope_slope(z: Array, other: Array, rows: Dims, columns: Dims) -> Array:
    """cov(∂f(z)/∂zᵢ, ∂f(z′)/∂z′ⱼ) = −4 κ″ Δᵢ Δⱼ − 2 κ′ δᵢⱼ, shape (m · rows, m′ · columns)."""
    delta = _differences(z, other)
    kernel = _Kernel.at((delta**2).sum(axis=2))
    of_rows, of_columns = delta[..., rows, None], delta[..., None, columns]
    blocks = -4 * kernel.second[..., None, None] * of_rows * of_columns
    blocks -= 2 * kernel.first[..., None, None] * (rows[:, None] == columns)
    shape = len(z) * len(rows), len(other) * len(columns)
    return np.asarray(blocks.transpose(0, 2, 1, 3).reshape(shape))


def _scale_gradient(b: Array, z: Array, at: NDArray[np.int64], dims: Dims) -> Array:
    """Σ b · ∂K/∂log wᵢ, where w scales the coordinates: ∂Δᵢ/∂log wᵢ = Δᵢ."""
    n, m, d = len(z), len(at), len(dims)
    delta = _differences(z, z)
    kernel = _Kernel.at((delta**2).sum(axis=2))
    total: Array = np.einsum("ab,abi->i", b[:n, :n] * 2 * kernel.first, delta**2)
    if not m:
        return total
    delta = _differences(z, z[at])
    kernel = _Kernel.at((delta**2).sum(axis=2))
    mixed = b[:n, n:].reshape(n, m, d)
    product = (mixed * delta[..., dims]).sum(axis=2)
    total += 2 * np.einsum("ab,abi->i", -4 * kernel.second * product, delta**2)
    total[dims] += 2 * np.einsum("ab,abi->i", -2 * kernel.first, mixed * delta[..., dims])
    delta = delta[at]
    kernel = _Kernel(*(part[at] for part in kernel))
    blocks = b[n:, n:].reshape(m, d, m, d).transpose(0, 2, 1, 3)
    own = delta[..., dims]
    right = (blocks @ own[..., None])[..., 0]
    left = (own[..., None, :] @ blocks)[..., 0, :]
    quadratic = (own * right).sum(axis=2)
    trace = np.trace(blocks, axis1=2, axis2=3)
    of_squares = -8 * kernel.third * quadratic - 4 * kernel.second * trace
    total += np.einsum("ab,abi->i", of_squares, delta**2)
    total[dims] += np.einsum("ab,abi->i", -4 * kernel.second, (left + right) * own)
    return total


def fit(data: Data, kinds: Sequence[int], lengths: Array, spreads: Array) -> GaussianProcess:
    """The process with the most probable hyperparameters.

    Slopes outnumber losses, so an optimum may call losses noise that contradict them. Of the optima
    from two starts, that counts which predicts each loss best from all other observations; or the
    one without slopes, if it is better by ``EVIDENCE``.

    Args:
        data: What was observed.
        kinds: For each coordinate the length scale, from 0 on, that it shares with others.
        lengths: Most probable length scale of each kind before anything is observed.
        spreads: Standard deviations of their logarithms.
    """
    index = np.asarray(kinds)
    means = np.array([*np.log(lengths), *(p[0] for p in _PRIORS)])
    deviations = np.array([*spreads, *(p[1] for p in _PRIORS)])
    k = len(lengths)

    def at(theta: Array) -> GaussianProcess:
        own = np.exp(theta)
        return GaussianProcess(data, Hyperparameters(own[:k][index], *own[k:].tolist()))

    def objective(theta: Array) -> tuple[float, Array]:
        process = at(theta)
        by = process.loss_gradient()
        of_lengths = np.bincount(index, by.lengths, minlength=k)
        gradient = np.array([*of_lengths, *by[1:]])
        distance = (theta - means) / deviations
        return process.loss() + 0.5 * float(distance @ distance), gradient + distance / deviations

    bounds = [(mean - 2.5 * s, mean + 2.5 * s) for mean, s in zip(means, deviations, strict=True)]
    options = {"maxiter": MAX_ITERATIONS}
    doubting = means + np.array([0.0] * (k + 2) + [2.0, 2.0])  # of slopes, before the losses
    found = [
        at(minimize(objective, x, jac=True, method="L-BFGS-B", bounds=bounds, options=options).x)
        for x in ((means, doubting) if len(data.at) else (means,))
    ]
    if not len(data.at):
        return found[0]
    densities = [process.predictive_density() for process in found]
    best = int(np.argmax(densities))
    plain = fit(data._replace(slopes=data.slopes[:0], at=data.at[:0]), kinds, lengths, spreads)
    is_better = plain.predictive_density() > densities[best] + EVIDENCE
    return plain if is_better else found[best]


_PRIORS = (SIGNAL, NOISE, SLOPE_NOISE, RELATIVE_NOISE)
