"""Search coordinates: where a hyperparameter moves, and the step sizes that its range suggests.

Gradient projection: along the bound of a feasible region rather than out of it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


class Ranges(NamedTuple):
    """Bounds of n hyperparameters, each array of shape (n,).

    A hyperparameter with ``log`` moves in log space, the others in their own units.

    Example:
        >>> ranges = Ranges(np.array([-1.0, 1e-4]), np.array([1.0, 1.0]), np.array([False, True]))
        >>> ranges.start()                        # 0 where the range spans it, else the middle
        array([0.  , 0.01])
        >>> ranges.step_size().round(3)           # either end in ten steps; of a logarithm
        array([0.1  , 0.461])
        >>> point = ranges.to_search(ranges.start())
        >>> ranges.to_natural(point - 20 * ranges.step_size())
        array([-1.e+00,  1.e-04])
    """

    low: Array
    high: Array
    log: NDArray[np.bool_]

    @property
    def width(self) -> Array:
        """Width of each range in search coordinates."""
        return self.to_search(self.high) - self.to_search(self.low)

    def to_search(self, values: ArrayLike) -> Array:
        """Search coordinates of natural values."""
        values = np.asarray(values, dtype=float)
        return np.where(self.log, np.log(np.where(self.log, values, 1.0)), values)

    def to_natural(self, point: ArrayLike) -> Array:
        """Natural values of a point in search coordinates, inside the bounds."""
        point = np.asarray(point, dtype=float)
        values = np.where(self.log, np.exp(np.where(self.log, point, 0.0)), point)
        return np.clip(values, self.low, self.high)

    def clip(self, point: Array) -> Array:
        """The nearest point inside the bounds, in search coordinates."""
        return np.clip(point, self.to_search(self.low), self.to_search(self.high))

    def to_unit(self, values: ArrayLike) -> Array:
        """Natural values as fractions of the range: 0 at the lower bound, 1 at the upper."""
        return (self.to_search(values) - self.to_search(self.low)) / self.width

    def from_unit(self, fractions: ArrayLike) -> Array:
        """Natural values of fractions of the range."""
        return self.to_natural(self.to_search(self.low) + np.asarray(fractions) * self.width)

    def unit_gradient(self, values: ArrayLike, gradient: ArrayLike) -> Array:
        """A derivative by natural values as one by fractions of the range, at ``values``."""
        slope = np.where(self.log, np.asarray(values, dtype=float), 1.0)  # dh/d(log h) = h
        return np.asarray(gradient, dtype=float) * slope * self.width

    def start(self) -> Array:
        """Natural values to begin with: 0 where a range spans it (FDS), else the middle.

        The middle of a log range is its geometric middle.
        """
        spans_zero = (self.low <= 0.0) & (self.high >= 0.0)
        middle = (self.to_search(self.low) + self.to_search(self.high)) / 2
        return np.where(spans_zero, 0.0, self.to_natural(middle))

    def step_size(self) -> Array:
        """First step sizes γ: a twentieth of each range, in search coordinates."""
        return self.width / 20


ROUNDING = 1e-9  # what rounding leaves of a gradient, as a fraction of it


def by_fractions(point: Array, gradient: Array, ranges: Ranges) -> Array:
    """A gradient by fractions of the ranges, up to a positive factor, shape (n,).

    Args:
        point: Where it was taken, in search coordinates, shape (n,).
        gradient: By natural values, shape (n,); entries that are not finite count as 0.
        ranges: Bounds of the hyperparameters.
    """
    known = np.where(np.isfinite(gradient), gradient, 0.0)
    largest = np.abs(known).max(initial=0.0)
    scaled = known / largest if largest > 0 else known
    return ranges.unit_gradient(ranges.to_natural(point), scaled)


def projected(gradient: Array, normal: Array) -> Array:
    """A gradient without its part along the hypergradient of a constraint.

    Only where descent would lead back across the constraint, and where something is left of it.

    Args:
        gradient: Of the loss, shape (n,).
        normal: Of the constraint, in the same coordinates, shape (n,).

    Reference:
        Rosen (1960), "The gradient projection method for nonlinear programming".

    Example:
        >>> projected(np.array([-1.0, -3.0]), np.array([1.0, 1.0]))
        array([ 1., -1.])
        >>> projected(np.array([1.0, -3.0]), np.array([1.0, 0.0]))
        array([ 1., -3.])
    """
    along = gradient @ normal
    if along >= 0:
        return gradient
    rest = gradient - along / (normal @ normal) * normal
    rest[np.abs(rest) <= ROUNDING * np.abs(gradient).max()] = 0.0
    return rest if rest.any() else gradient
