"""Axes for numbers of both signs and of many sizes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from optuna_hypergrad.algorithms.ranges import Array
from optuna_hypergrad.visualization.charts.marks import Axis
from optuna_hypergrad.visualization.charts.ticks import labels

WIDE = 12.0  # largest over median size, from where a linear axis hides most of them
MOST_DECADES = 6


class SignedScale:
    """Positions on a signed axis: linear, or logarithmic on both sides of a linear middle.

    Args:
        values: What is to be placed; NaN and infinite ones do not count.

    Example:
        >>> scale = SignedScale([-10.0, -0.1, 0.1, 0.0, 0.2])
        >>> scale.place([-10.0, 0.0, 0.1]).round(2)
        array([-3.,  0.,  1.])
        >>> [*scale.axis("h").ticks.values()]
        ['−10', '−1', '−0.1', '0', '0.1', '1', '10']
    """

    def __init__(self, values: ArrayLike) -> None:
        sizes = np.abs(np.asarray(values, dtype=float))
        sizes = sizes[np.isfinite(sizes) & (sizes > 0)]
        self.largest = float(sizes.max()) if len(sizes) else 1.0
        median = float(np.median(sizes)) if len(sizes) else 1.0
        is_wide = self.largest > WIDE * median
        low = max(median / 10, self.largest / 10**MOST_DECADES)
        self.unit: float | None = 10.0 ** np.floor(np.log10(low)) if is_wide else None

    def place(self, values: ArrayLike) -> Array:
        """Where values lie on the axis: asinh(v / 2u) / ln 10 with u where it turns linear."""
        array = np.asarray(values, dtype=float)
        if self.unit is None:
            return array
        return np.asarray(np.arcsinh(array / (2 * self.unit)) / np.log(10))

    def axis(self, name: str) -> Axis:
        """The axis, with ticks at powers of ten where it is not linear."""
        if self.unit is None:
            return Axis(name)
        first = round(np.log10(self.unit)) + 1
        last = int(np.floor(np.log10(self.largest)))
        every = max(1, -(-(last - first + 1) // 3))
        powers = range(last, first - 1, -every)
        sizes: Sequence[float] = [10.0**power for power in powers]
        values = [*(-size for size in sizes), 0.0, *reversed(sizes)]
        return Axis(name, ticks=dict(zip(self.place(values).tolist(), labels(values), strict=True)))
