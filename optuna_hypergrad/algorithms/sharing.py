"""Sharing: which neighbouring windows of a fine schedule move together, by what one run tells.

A hypergradient that is shared by W windows has less noise and misses more of what differs between
them (``noise.sharing_error``). The trade is made block by block. Let the two halves of a block of n
have mean hypergradients h₁ and h₂, whose difference has the variance V by noise alone. Together
they miss their true difference; apart each is noisier. They part where that lowers Akaike's
criterion, corrected for small n: three numbers, two means and the noise, are estimated, not two.

    n log(1 + t²/(n − 2)) > 6n/(n − 4) − 4n/(n − 3),    t² = (h₁ − h₂)² / V

They also part where parting within them gains more than it costs here. For large n that reads
t² > 2: as noise adds 1 to t² on average, the square of the true difference is then above V, which
is what parting costs. With noise σ² and a drift ε per window that is W³ > 16 σ²/ε²: of the widths
that halving reaches, the one nearest to the best, W* = (6 σ²/ε²)^(1/3). For small n the noise is
known badly, and more is asked.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from optuna_hypergrad.algorithms.ranges import Array

FEWEST = 5  # entries that a block must have for three numbers to be estimated from it


class _Cut(NamedTuple):
    """The best cut of a block into windows."""

    widths: tuple[int, ...]
    gain: float  # in the criterion, against one window


def shared_windows(gradient: ArrayLike) -> tuple[int, ...]:
    """How many fine windows each shared window holds, from the first to the last.

    Args:
        gradient: Hypergradient of each fine window, shape (n,), finite.

    Returns:
        Widths with the sum n.

    Reference:
        FDS, Theorem 4.1, for the trade; Hurvich and Tsai (1989), "Regression and time series model
        selection in small samples", for the criterion; Donoho (1997), "CART and best-ortho-basis",
        for the best of all cuts by halving.

    Example:
        >>> shared_windows([1.1, 0.9, 1.0, 1.2, -1.0, -1.2, -0.9, -1.0])   # settled signs
        (4, 4)
        >>> shared_windows([0.3, -0.2, 0.1, -0.4, 0.2, -0.3, -0.1, 0.1])   # noise
        (8,)
    """
    h = np.asarray(gradient, dtype=float)
    if h.ndim != 1 or not len(h) or not np.isfinite(h).all():
        raise ValueError(f"gradient must be finite, of shape (n,) and not empty, got {gradient!r}.")
    return _best_cut(h / (np.abs(h).max() or 1.0)).widths  # squares of large entries overflow


def shared_gradient(gradient: Array, widths: ArrayLike) -> Array:
    """Each entry replaced by the mean over its shared window, shape (n,).

    Example:
        >>> shared_gradient(np.array([1.0, 2.0, 3.0, 6.0]), (3, 1))
        array([2., 2., 2., 6.])
    """
    widths = np.asarray(widths)
    means = np.add.reduceat(gradient / np.repeat(widths, widths), np.cumsum(widths) - widths)
    return np.repeat(means, widths)


def _best_cut(block: Array) -> _Cut:
    """The best cut by halving, and halving again."""
    n, whole = len(block), _Cut((len(block),), 0.0)
    if n < FEWEST:
        return whole
    left, right = np.split(block, [n // 2])
    first, second = _best_cut(left), _best_cut(right)
    cost = 6 * n / (n - 4) - 4 * n / (n - 3)
    gain = _likelihood(left, right) - cost + first.gain + second.gain
    return max(whole, _Cut(first.widths + second.widths, gain), key=lambda cut: cut.gain)


def _likelihood(left: Array, right: Array) -> float:
    """n log(1 + t²/(n − 2)): twice the logarithm of how much likelier two means are than one."""
    difference, n = left.mean() - right.mean(), len(left) + len(right)
    if difference == 0.0:
        return 0.0
    noise = (n - 2) * (_noise(left) / len(left) + _noise(right) / len(right))
    return float(n * (np.log(noise + difference**2) - np.log(noise))) if noise else np.inf


def _noise(block: Array) -> float:
    """Variance of one entry by noise: half the mean square of how far neighbours differ.

    Unlike the spread around the mean, it does not take a slow drift for noise.
    Reference: von Neumann (1941), "Distribution of the ratio of the mean square successive
    difference to the variance".
    """
    return float(np.mean(np.diff(block) ** 2) / 2.0)
