"""Ticks that are few and short, and an axis for values of both signs and many magnitudes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from optuna_hypergrad.algorithms.ranges import Array
from optuna_hypergrad.visualization.charts import Axis

MAX_TICKS = 8
FEW_DECADES = 2.5  # with ticks at 1, 2 and 5
MAX_LOG = 700.0  # whose exponential is still a float
MIN_EXCESS = 1e-4  # of a factor over 1 that is written as one number
MIN_PLAIN, MAX_PLAIN = 0.001, 10_000  # written without powers of ten
MAX_RATIO = 12.0  # of the largest magnitude to the median on a linear axis
MAX_EXCESS = 1e4  # of a magnitude over the median; larger ones lie at the edge
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def log_ticks(low: float, high: float) -> dict[float, str]:
    """Labels by position between two positive ends: decades, or 1, 2, 5 where there are few.

    Example:
        >>> log_ticks(1e-4, 2.0)
        {0.0001: '10⁻⁴', 0.001: '10⁻³', 0.01: '10⁻²', 0.1: '10⁻¹', 1.0: '1'}
        >>> log_ticks(0.3, 1.5)
        {0.5: '0.5', 1.0: '1'}
        >>> log_ticks(0.21, 0.28)
        {0.22: '0.22', 0.24: '0.24', 0.26: '0.26', 0.28: '0.28'}
    """
    first, last = math.log10(low), math.log10(high)
    digits: tuple[int, ...] = (1,) if last - first > FEW_DECADES else (1, 2, 5)
    every = max(1, math.ceil((last - first) / MAX_TICKS))
    decades = range(math.floor(first), math.ceil(last) + 1)
    exact = (float(f"{d}e{n}") for n in decades if n % every == 0 for d in digits)
    ticks = [value for value in exact if low * (1 - 1e-9) <= value <= high * (1 + 1e-9)]
    if len(ticks) < 2:
        return linear_ticks(low, high)
    return dict(zip(ticks, labels(ticks), strict=True))


def linear_ticks(low: float, high: float) -> dict[float, str]:
    """Labels by position of a few round numbers between two ends.

    Example:
        >>> linear_ticks(-0.1, 2.3)
        {0.0: '0', 0.5: '0.5', 1.0: '1', 1.5: '1.5', 2.0: '2'}
    """
    power = 10.0 ** math.floor(math.log10((high - low) / 3))
    step = [digit * power for digit in (1, 2, 5) if digit * power <= (high - low) / 3][-1]
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    ticks = [float(f"{i * step:.6g}") for i in range(first, last + 1)]
    return dict(zip(ticks, labels(ticks), strict=True))


def factor_ticks(low: float, high: float) -> dict[float, str]:
    """Ticks for steps of a natural logarithm, labelled with the factors that they stand for.

    Example:
        >>> [*factor_ticks(0.01, 1.0).values()]
        ['×1.02', '×1.05', '×1.1', '×1.2', '×1.5', '×2']
        >>> [*factor_ticks(5e-7, 2e-2).values()]
        ['×(1+10⁻⁶)', '×(1+10⁻⁵)', '×1.0001', '×1.001', '×1.01']
    """
    low, high = (math.expm1(min(end, MAX_LOG)) for end in (low, high))
    # 1 + v is round where v is a round fraction, and v itself where it is large.
    return dict(_factor_tick(v) if v <= 1 else _factor_tick(v - 1) for v in log_ticks(low, high))


def _factor_tick(excess: float) -> tuple[float, str]:
    """Position and label of the factor 1 + ``excess``, which may be too close to 1 for a float."""
    factor = 1 + excess
    if excess < MIN_EXCESS:
        return math.log1p(excess), f"×(1+{_label(excess, as_power=True)})"
    return math.log1p(excess), f"×{_label(factor, as_power=factor >= MAX_PLAIN)}"


def labels(values: Sequence[float]) -> list[str]:
    """The labels of one axis: all are powers of ten where one of them needs to be.

    Example:
        >>> labels([-0.05, 0.0, 0.001]), labels([1e-5, 2e-4, 0.1, 1.0, 10.0])
        (['−0.05', '0', '0.001'], ['10⁻⁵', '2·10⁻⁴', '10⁻¹', '1', '10'])
    """
    as_powers = any(value and not MIN_PLAIN <= abs(value) < MAX_PLAIN for value in values)
    return [_label(value, as_powers) for value in values]


def _label(value: float, as_power: bool) -> str:
    sign, size = "−" if value < 0 else "", abs(value)
    if not as_power or size == 0 or 1 <= size < 100:
        return f"{sign}{size:g}"
    power = math.floor(math.log10(size) + 1e-9)
    digits = f"{size / 10.0**power:.3g}"
    factor = "" if digits == "1" else f"{digits}·"
    return sign + factor + "10" + str(power).translate(_SUPERSCRIPTS)


class SignedScale:
    """A signed axis: linear, or logarithmic on both sides of a linear part around zero.

    Values of more than ten thousand times the median size, as of a training that exploded, lie at
    its edge.

    Args:
        values: What the axis must show; NaN and infinite values are ignored.

    Example:
        >>> scale = SignedScale([-10.0, -0.1, 0.1, 0.0, 0.2])
        >>> scale.positions([-10.0, 0.0, 0.1]).round(2)
        array([-3.,  0.,  1.])
        >>> [*scale.axis("h").ticks.values()]
        ['−10', '−1', '−0.1', '0', '0.1', '1', '10']
    """

    def __init__(self, values: ArrayLike) -> None:
        sizes = np.abs(np.asarray(values, dtype=float))
        sizes = sizes[np.isfinite(sizes) & (sizes > 0)]
        median = float(np.median(sizes)) if len(sizes) else 1.0
        self.edge = MAX_EXCESS * median
        self.largest = min(float(sizes.max(initial=0.0)) or 1.0, self.edge)
        is_wide = self.largest > MAX_RATIO * median
        self.unit: float | None = 10.0 ** np.floor(np.log10(median / 10)) if is_wide else None

    def positions(self, values: ArrayLike) -> Array:
        """Where values lie on the axis: asinh(v / 2u) / ln 10, which is linear for |v| < u."""
        array: Array = np.clip(np.asarray(values, dtype=float), -self.edge, self.edge)
        if self.unit is None:
            return array
        return np.asarray(np.arcsinh(array / (2 * self.unit)) / np.log(10))

    def axis(self, label: str) -> Axis:
        """The axis, with ticks at powers of ten where it is not linear."""
        if self.unit is None:
            return Axis(label)
        first = round(np.log10(self.unit)) + 1
        last = int(np.floor(np.log10(self.largest)))
        every = max(1, -(-(last - first + 1) // 3))
        sizes: list[float] = [10.0**power for power in range(last, first - 1, -every)]
        values = [*(-size for size in sizes), 0.0, *reversed(sizes)]
        ticks = zip(self.positions(values).tolist(), labels(values), strict=True)
        return Axis(label, ticks=dict(ticks))
