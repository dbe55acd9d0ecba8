"""Losses as the Gaussian process sees them: on a logarithmic scale, and apart from failures."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from optuna_hypergrad.algorithms.ranges import Array

N_SCALE = 10  # first runs, whose losses set the scale
CEILING = 3.0  # of losses above the best, in scales; what is worse is equally bad
BETTER, BETWEEN = 0.1, 0.5  # of a failure's loss above the best: what is better, what no failure
FEW, RARE = 3, 0.05  # runs that are better, at least; share of those between, at most
MANY = 3  # runs with the same loss, which is what a diverged one counts as
FEWEST_LATER = 5  # runs after the first ten, until those between are counted
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

    Then the median of these is the loss of a failure, and the others are ten times as close to the
    best loss: three at least, or four and one in between, whatever follows. Or three of all runs,
    if hardly any is in between, where some would be if a search had closed in. Where the median is
    what a diverged run counts as, and that is not clear, the one or two losses below it may be of
    failures, too: those of chance. Beside failures, all other runs would look alike. A failure says
    where to be careful, not how good a place is otherwise.

    Args:
        losses: In the order in which the runs began; infinite where one diverged.

    Example:
        >>> good, failed = [0.1, 0.15, 0.12, 0.2, 0.14], [2.3, 2.3, 2.2, 4.6, np.inf]
        >>> failed_runs(np.array(good + failed + [0.3])).nonzero()[0].tolist()
        [5, 6, 7, 8, 9]
        >>> failed_runs(np.linspace(0.0, 1.0, 10)).any().item()
        False
    """
    first, none = losses[:N_SCALE], np.zeros(len(losses), dtype=bool)
    if len(first) < N_SCALE or not np.isfinite(losses).any():
        return none
    for best in (first.min(), losses.min()):
        above = losses - best if np.isfinite(best) else losses
        in_order = np.sort(above[:N_SCALE])[: N_SCALE // 2 + 1]
        has_diverged = (above[:N_SCALE] == in_order[-1]).sum() >= MANY
        n_levels = FEW if has_diverged else 1
        for typical in in_order[: -1 - n_levels : -1]:
            is_better, has_failed = above < BETTER * typical, above >= BETWEEN * typical
            is_between, n_better = ~is_better & ~has_failed, is_better[:N_SCALE].sum()
            n_between = is_between[:N_SCALE].sum()
            is_clear = n_between <= 1 and n_better >= FEW + n_between
            is_late = len(losses) >= N_SCALE + FEWEST_LATER and is_better.sum() >= FEW
            if is_clear or (is_late and n_between == 0 and is_between.mean() <= RARE):
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
