"""Sharing: which adjacent windows of a fine schedule move together, judged from one run.

Sharing a hypergradient between W windows reduces its noise and ignores their differences
(``noise.sharing_error``). The trade-off is made block by block. Let the halves of a block of n
windows have mean hypergradients h₁ and h₂, with V the variance of h₁ − h₂ due to noise. The block
is split if that lowers Akaike's criterion, corrected for small n, with three estimated numbers (two
means and the noise) instead of two:

    n log(1 + t²/(n − 2)) > 6n/(n − 4) − 4n/(n − 3),    t² = (h₁ − h₂)² / V

It is also split if splits inside the halves gain more than this one costs. For large n the
criterion reads t² > 2: since noise adds 1 to t² on average, the square of the true difference then
exceeds V, the cost of the split. With noise σ² and a drift ε per window this is W³ > 16 σ²/ε²,
which gives the power-of-two fraction of the block nearest to W* = (6 σ²/ε²)^(1/3). For small n the
noise is poorly known, and the criterion is stricter.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from optuna_hypergrad.algorithms.ranges import Array

MIN_BLOCK = 5  # entries from which three numbers can be estimated


class _Cut(NamedTuple):
    """A cut of a block into windows."""

    widths: tuple[int, ...]
    gain: float  # of the criterion over one window


def shared_windows(gradient: ArrayLike) -> tuple[int, ...]:
    """Return the number of fine windows in each shared window, from first to last.

    Args:
        gradient: Hypergradient of each fine window, shape (n,), finite.

    Returns:
        Widths that sum to n.

    Reference:
        FDS, Theorem 4.1, for the trade-off; Hurvich and Tsai (1989), "Regression and time series
        model selection in small samples", for the criterion; Donoho (1997), "CART and
        best-ortho-basis", for the best recursive halving.

    Example:
        >>> shared_windows([1.1, 0.9, 1.0, 1.2, -1.0, -1.2, -0.9, -1.0])   # reliable signs
        (4, 4)
        >>> shared_windows([0.3, -0.2, 0.1, -0.4, 0.2, -0.3, -0.1, 0.1])   # noise
        (8,)
    """
    h = np.asarray(gradient, dtype=float)
    if h.ndim != 1 or not len(h) or not np.isfinite(h).all():
        raise ValueError(f"gradient must be finite, of shape (n,) and not empty, got {gradient!r}.")
    return _best_cut(h / (np.abs(h).max() or 1.0)).widths  # squares of large entries overflow


def shared_gradient(gradient: Array, widths: ArrayLike) -> Array:
    """Replace each entry by the mean over its shared window, shape (n,).

    Example:
        >>> shared_gradient(np.array([1.0, 2.0, 3.0, 6.0]), (3, 1))
        array([2., 2., 2., 6.])
    """
    widths = np.asarray(widths)
    means = np.add.reduceat(gradient / np.repeat(widths, widths), np.cumsum(widths) - widths)
    return np.repeat(means, widths)


def _best_cut(block: Array) -> _Cut:
    """Return the best cut by recursive halving."""
    n, uncut = len(block), _Cut((len(block),), 0.0)
    if n < MIN_BLOCK:
        return uncut
    left, right = np.split(block, [n // 2])
    first, second = _best_cut(left), _best_cut(right)
    cost = 6 * n / (n - 4) - 4 * n / (n - 3)
    gain = _likelihood(left, right) - cost + first.gain + second.gain
    return max(uncut, _Cut(first.widths + second.widths, gain), key=lambda cut: cut.gain)


def _likelihood(left: Array, right: Array) -> float:
    """Return n log(1 + t²/(n − 2)), twice the log-likelihood ratio of two means against one."""
    difference, n = left.mean() - right.mean(), len(left) + len(right)
    if difference == 0.0:
        return 0.0
    noise = (n - 2) * (_noise(left) / len(left) + _noise(right) / len(right))
    return float(n * (np.log(noise + difference**2) - np.log(noise))) if noise else np.inf


def _noise(block: Array) -> float:
    """Estimate the noise variance of one entry: half the mean square of successive differences.

    Unlike the sample variance, this is hardly affected by a slow drift.
    Reference: von Neumann (1941), "Distribution of the ratio of the mean square successive
    difference to the variance".
    """
    return float(np.mean(np.diff(block) ** 2) / 2.0)
