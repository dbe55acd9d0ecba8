"""Noise of hypergradients, and how much of it sharing removes.

| symbol | meaning |
| --- | --- |
| hᵢ | hypergradient of the value at step i, if every step has its own value |
| σ² | variance of hᵢ around its mean μᵢ |
| ε | largest drift of μᵢ from one step to the next |
| c | largest correlation of two hᵢ |
| W | number of steps that share one value |
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from optuna_hypergrad.algorithms.ranges import Array


def hypervariance(runs: ArrayLike) -> Array:
    """Return the standard deviation over |mean| of hypergradients, per hyperparameter.

    Args:
        runs: Hypergradients of several runs that differ by a perturbation, shape (runs, n).

    Returns:
        Shape (n,), dimensionless; infinite where the mean is zero and the runs are not.

    Reference:
        FDS, Section 5.1.

    Example:
        >>> hypervariance([[1.0, -1.0], [3.0, 2.0]]).round(2)
        array([0.71, 4.24])
    """
    runs = _runs(runs)
    spread, mean = runs.std(axis=0, ddof=1), np.abs(runs.mean(axis=0))
    ratio = np.full_like(spread, np.inf)
    return np.where(spread == 0.0, 0.0, np.divide(spread, mean, out=ratio, where=mean > 0.0))


def sign_fluctuation(runs: ArrayLike) -> Array:
    """Return min(P₋, P₊) / P per hyperparameter: 0 where all runs agree, at most 1/2.

    Args:
        runs: Hypergradients of P runs that differ by a perturbation, shape (P, n).

    Reference:
        FDS, Section 5.1.

    Example:
        >>> sign_fluctuation([[1.0, -1.0], [3.0, 2.0], [2.0, 4.0]]).round(2)
        array([0.  , 0.33])
    """
    runs = _runs(runs)
    positive, negative = (runs > 0.0).mean(axis=0), (runs < 0.0).mean(axis=0)
    return np.asarray(np.minimum(positive, negative))


def sharing_error(
    width: ArrayLike, variance: float, drift: float, correlation: float = 0.0
) -> Array:
    """Return the bound on the mean squared error of a hypergradient shared by W steps.

    (1 + c (W − 1)) / W · σ² + ε² (W² − 1) / 12: the noise left after the mean over W steps, and
    the error that their drift causes.

    Args:
        width: W, a number or an array.
        variance: σ² of one step.
        drift: ε for one step.
        correlation: c in [0, 1].

    Reference:
        FDS, Theorem 4.1.

    Example:
        >>> sharing_error([1, 6, 36], variance=36.0, drift=1.0).round(1)
        array([ 36. ,   8.9, 108.9])
    """
    w = np.asarray(width, dtype=float)
    noise = (1.0 + correlation * (w - 1.0)) / w * variance
    return np.asarray(noise + drift**2 * (w**2 - 1.0) / 12.0)  # FDS Theorem 4.1


def best_width(variance: float, drift: float) -> float:
    """Return W* = (6 σ² / ε²)^(1/3), which minimises ``sharing_error`` for uncorrelated steps.

    Args:
        variance: σ² of one step.
        drift: ε for one step; 0 makes W* infinite.

    Reference:
        FDS, Theorem 4.1.

    Example:
        >>> round(best_width(variance=36.0, drift=1.0), 3)
        6.0
    """
    return float(np.cbrt(6.0 * variance / drift**2)) if drift else np.inf


def effective_steps(values: ArrayLike) -> float:
    """Return the number of independent steps whose mean is as exact as that of these.

    n / (1 + 2 Σₖ ρₖ) over the lags k up to the first pair of autocorrelations with a negative sum
    (the initial positive sequence); between 1 and n.

    Args:
        values: One value for each of n steps, shape (n,).

    Reference:
        Geyer (1992), "Practical Markov chain Monte Carlo", Section 3.3.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> pairs = np.repeat(rng.normal(size=500), 2)     # each twice
        >>> round(effective_steps(pairs), -1)
        510.0
    """
    x = np.asarray(values, dtype=float)
    n = len(x)
    centred = x - x.mean()
    power = centred @ centred
    if power == 0.0:
        return float(n)
    rho = np.correlate(centred, centred, "full")[n - 1 :] / power  # ρ₀ = 1, …, ρₙ₋₁
    pairs = rho[: n // 2 * 2].reshape(-1, 2).sum(axis=1)
    negative = np.flatnonzero(pairs <= 0.0)
    initial = pairs[: negative[0]] if len(negative) else pairs
    return float(n / np.clip(2.0 * initial.sum() - 1.0, 1.0, n))


def signal_to_noise(per_step: ArrayLike, windows: int = 1) -> Array:
    """Return |mean| over standard error of each window's hypergradients.

    The standard error is s / √n with n the window's ``effective_steps``. A window far above 1 has a
    reliable sign.

    Args:
        per_step: Hypergradient of each step of a run, shape (steps,).
        windows: Number of windows of equal length, as in a ``Schedule``.

    Returns:
        Shape (windows,), dimensionless; NaN for windows of fewer than two steps.

    Raises:
        ValueError: If there are more windows than steps, or fewer than one.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> steps = np.repeat([0.5, 0.0], 200) + rng.normal(size=400)
        >>> signal_to_noise(steps, windows=2).round(1)
        array([6.4, 1.2])
    """
    h = np.asarray(per_step, dtype=float)
    if not 1 <= windows <= len(h):
        raise ValueError(f"windows must lie in 1 … {len(h)} (steps={len(h)}), got {windows}.")
    first = -(-len(h) * np.arange(1, windows) // windows)
    return np.array([_ratio(window) for window in np.split(h, first)])


def _ratio(window: Array) -> float:
    if len(window) < 2:
        return np.nan
    error = window.std(ddof=1) / np.sqrt(effective_steps(window))
    mean = abs(window.mean())
    return float(mean / error) if error else (np.inf if mean else 0.0)


def _runs(runs: ArrayLike) -> Array:
    array = np.asarray(runs, dtype=float)
    if array.ndim != 2 or len(array) < 2:
        raise ValueError(
            f"runs must have shape (runs, n) with at least two runs, got {array.shape}."
        )
    return array
