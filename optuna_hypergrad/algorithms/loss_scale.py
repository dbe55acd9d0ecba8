"""Losses as the Gaussian process sees them: on a logarithmic scale, and apart from failures."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from optuna_hypergrad.algorithms.ranges import Array

N_SCALE = 10  # first runs, whose losses set the scale
CEILING = 3.0  # of losses above the best, in scales; what is worse is equally bad
FEW, BETTER = 3, 0.25  # runs that did not fail, at least; their losses, of a failure's
ALIKE, NEARLY_ALL = 0.01, 0.8  # losses of failures differ by; share of the failures that are alike
MANY = 3  # runs that share the largest loss, which is what a diverged one counts as
FAILURE = 10.0  # of losses above the best, in scales, where points are to be recommended
LARGEST = 1e150  # of losses and slopes, whose squares are finite


class LossScale:
    """Standardised losses: the logarithm of what a loss is above the best one, in scales.

    The logarithm is linear near the best loss, where differences count, and flat far from it. The
    scale is the median of the first ten runs that did not fail. Runs that diverged may be infinite
    or share a large loss.

    Args:
        losses: Of all runs, in the order in which they began; infinite where one diverged.

    Example:
        >>> losses = np.array([0.1, 0.2, 0.4, np.inf])
        >>> LossScale(losses).standardised(losses).round(2)
        array([-1.51, -0.3 ,  0.9 ,  0.9 ])
    """

    def __init__(self, losses: Array) -> None:
        losses = _bounded(losses)
        self._best = float(losses.min()) if np.isfinite(losses).any() else 0.0
        self.failed = failed_runs(losses)
        self._size = _typical(_unbounded(losses)[~self.failed] - self._best)
        values = self._logarithm(losses[~self.failed]) if len(losses) else np.zeros(1)
        deviation = float(values.std())
        self._mean, self._deviation = float(values.mean()), deviation if deviation > 1e-9 else 1.0

    def standardised(self, losses: Array) -> Array:
        """Losses of any runs; those that did not fail have a mean of 0 and a deviation of 1."""
        return (self._logarithm(_bounded(losses)) - self._mean) / self._deviation

    def slopes(self, losses: Array) -> Array:
        """Derivatives of standardised losses by losses; NaN beyond ``CEILING``."""
        above = _bounded(losses) - self._best
        is_below = above < CEILING * self._size
        return np.where(is_below, 1.0 / (self._size + above), np.nan) / self._deviation

    @property
    def of_failure(self) -> float:
        """What a failed run counts as where others are to be compared, on the same scale."""
        return (math.log1p(FAILURE) - self._mean) / self._deviation

    def loss_at(self, value: float) -> float:
        """The loss whose standardised value is this.

        Example:
            >>> scale = LossScale(np.array([0.1, 0.2, 0.4, np.inf]))
            >>> round(scale.loss_at(scale.standardised(np.array([0.2])).item()), 6)
            0.2
        """
        return self._best + self._size * math.expm1(self._mean + self._deviation * value)

    def _logarithm(self, losses: Array) -> Array:
        above = np.minimum(losses - self._best, CEILING * self._size)
        return np.asarray(np.log1p(above / self._size))


def failed_runs(losses: Array) -> NDArray[np.bool_]:
    """Which runs failed, if half of the first ten did; else none.

    Trainings that fail do so alike: nearly all losses from some loss on are that one, which is the
    loss of chance, or the largest of all, which is what divergence counts as. Three runs at least
    are four times as close to the best one. Beside failures, all other runs would look alike. A
    failure says where to be careful, not how good a place is otherwise.

    Args:
        losses: In the order in which the runs began; infinite where one diverged.

    Example:
        >>> good, failed = [0.1, 0.15, 0.12, 0.2, 0.14], [2.3, 2.3, 2.31, 4.6, np.inf, np.inf]
        >>> failed_runs(np.array(good + failed + [0.3])).nonzero()[0].tolist()
        [5, 6, 7, 8, 9, 10]
        >>> failed_runs(np.linspace(0.0, 1.0, 10)).any().item()
        False
    """
    none = np.zeros(len(losses), dtype=bool)
    if len(losses) < N_SCALE or not np.isfinite(losses).any():
        return none
    is_largest = losses == losses.max()
    for best in (losses.min(), losses[:N_SCALE].min()):
        above = losses - best if np.isfinite(best) else losses
        for level in np.unique(above[above > 0]):
            has_failed = above >= level
            is_at_level = has_failed & (above <= (1 + ALIKE) * level)
            is_alike = is_at_level | (has_failed & is_largest)
            if (
                has_failed[:N_SCALE].sum() >= N_SCALE / 2
                and is_at_level.sum() > 1
                and is_alike.sum() >= NEARLY_ALL * has_failed.sum()
                and (above < BETTER * level).sum() >= FEW
            ):
                return np.asarray(has_failed)
    return none


def _typical(above: Array) -> float:
    """The median of the first differences to the best loss; the largest where that is zero."""
    finite, first = above[np.isfinite(above)], above[:N_SCALE]
    if not len(finite):
        return 1.0
    sizes = np.median(first[np.isfinite(first)]) if np.isfinite(first).any() else 0.0, finite.max()
    return next((float(size) for size in sizes if size > 1 / LARGEST), 1.0)


def _unbounded(losses: Array) -> Array:
    """Losses that are infinite where several share the largest one: that is what divergence is."""
    is_largest = losses == losses.max(initial=-np.inf)
    is_bound = is_largest.sum() >= MANY and not is_largest.all()
    return np.where(is_largest, np.inf, losses) if is_bound else losses


def _bounded(losses: Array) -> Array:
    """Losses whose squares are finite, if they are."""
    return np.clip(losses, -LARGEST, np.where(np.isfinite(losses), LARGEST, np.inf))
