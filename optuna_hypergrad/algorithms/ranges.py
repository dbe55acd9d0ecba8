"""Search coordinates of hyperparameters, and gradients in them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

ROUNDING = 1e-9  # relative size of what rounding leaves of a gradient
LINEAR = 0.1  # of the larger bound of a range across zero: up to there, its scale is about linear


@dataclass(frozen=True, eq=False)
class Ranges:
    """Bounds of n hyperparameters, each array of shape (n,).

    Search coordinates are logarithms where ``log`` is set, else the hyperparameters' own units.

    Example:
        >>> ranges = Ranges(np.array([-1.0, 1e-4]), np.array([1.0, 1.0]), np.array([False, True]))
        >>> ranges.start()                        # 0 where the range contains it, else the middle
        array([0.  , 0.01])
        >>> ranges.step_size().round(3)           # ten steps to a bound; of a logarithm
        array([0.1  , 0.461])
        >>> point = ranges.to_search(ranges.start())
        >>> ranges.to_natural(point - 20 * ranges.step_size())
        array([-1.e+00,  1.e-04])
    """

    low: Array
    high: Array
    log: NDArray[np.bool_]

    @cached_property
    def search_low(self) -> Array:
        """Lower bounds in search coordinates."""
        return self.to_search(self.low)

    @cached_property
    def search_high(self) -> Array:
        """Upper bounds in search coordinates."""
        return self.to_search(self.high)

    @cached_property
    def width(self) -> Array:
        """Width of each range in search coordinates."""
        return self.search_high - self.search_low

    def to_search(self, values: ArrayLike) -> Array:
        """Return natural values in search coordinates."""
        values = np.asarray(values, dtype=float)
        return np.where(self.log, np.log(np.where(self.log, values, 1.0)), values)

    def to_natural(self, point: ArrayLike) -> Array:
        """Return a point of search coordinates in natural values, inside the bounds."""
        point = np.asarray(point, dtype=float)
        values = np.where(self.log, np.exp(np.where(self.log, point, 0.0)), point)
        return np.clip(values, self.low, self.high)

    def clip(self, point: Array) -> Array:
        """Return the nearest point inside the bounds, in search coordinates."""
        return np.clip(point, self.search_low, self.search_high)

    def to_unit(self, values: ArrayLike) -> Array:
        """Return natural values as fractions of the range: 0 and 1 at the bounds."""
        return (self.to_search(values) - self.search_low) / self.width

    def from_unit(self, fractions: ArrayLike) -> Array:
        """Return the natural values of fractions of the range."""
        return self.to_natural(self.search_low + np.asarray(fractions) * self.width)

    def unit_gradient(self, values: ArrayLike, gradient: ArrayLike) -> Array:
        """Convert a gradient in natural units, taken at ``values``, to one in fractions."""
        dh_du = np.where(self.log, np.asarray(values, dtype=float), 1.0)  # dh/d(log h) = h
        return np.asarray(gradient, dtype=float) * dh_du * self.width

    def unit_direction(self, point: Array, gradient: Array) -> Array:
        """Convert a gradient in natural units to one in fractions, up to a positive factor.

        It was taken at ``point`` (search coordinates). Entries that are not finite count as 0.
        """
        known = np.where(np.isfinite(gradient), gradient, 0.0)
        largest = np.abs(known).max(initial=0.0)
        scaled = known / largest if largest > 0 else known
        return self.unit_gradient(self.to_natural(point), scaled)

    def start(self) -> Array:
        """Return the initial values: 0 where the range contains it (FDS), else the middle.

        The middle of a log range is its geometric middle.
        """
        contains_zero = (self.low <= 0.0) & (self.high >= 0.0)
        middle = (self.search_low + self.search_high) / 2
        return np.where(contains_zero, 0.0, self.to_natural(middle))

    def step_size(self) -> Array:
        """Return the initial step sizes γ: a twentieth of each range, in search coordinates."""
        return self.width / 20


class SignedLogRanges(Ranges):
    """Ranges whose search coordinates are logarithmic on both sides of zero, if it is inside.

    Hyperparameters such as learning rates act by their order of magnitude, whatever their sign. The
    coordinate is asinh(h / c), where c is a tenth of the larger bound: about linear below c.

    Example:
        >>> ranges = SignedLogRanges(np.array([-1.0]), np.array([1.0]), np.array([False]))
        >>> [ranges.to_unit([value]).item().__round__(2) for value in (0.0, 0.03, 0.1, 0.3, 1.0)]
        [0.5, 0.55, 0.65, 0.8, 1.0]
    """

    @cached_property
    def _is_signed(self) -> NDArray[np.bool_]:
        """Which ranges have zero inside; the others are as in ``Ranges``."""
        return np.asarray((self.low < 0) & (self.high > 0) & ~self.log)

    @cached_property
    def _linear(self) -> Array:
        """c of each range with zero inside; 1 of the others."""
        return np.where(self._is_signed, LINEAR * np.maximum(-self.low, self.high), 1.0)

    def to_search(self, values: ArrayLike) -> Array:
        """Return natural values in search coordinates."""
        found = super().to_search(values)
        return np.where(self._is_signed, np.arcsinh(found / self._linear), found)

    def to_natural(self, point: ArrayLike) -> Array:
        """Return a point of search coordinates in natural values, inside the bounds."""
        point = np.asarray(point, dtype=float)
        values = self._linear * np.sinh(np.where(self._is_signed, point, 0.0))
        return super().to_natural(np.where(self._is_signed, values, point))

    def unit_gradient(self, values: ArrayLike, gradient: ArrayLike) -> Array:
        """Convert a gradient in natural units, taken at ``values``, to one in fractions."""
        by_asinh = np.hypot(self._linear, np.asarray(values, dtype=float))  # √(c² + h²)
        return super().unit_gradient(values, gradient) * np.where(self._is_signed, by_asinh, 1.0)


def project_out(gradient: Array, normal: Array) -> Array:
    """Remove the component of a gradient along the hypergradient of a constraint.

    Only if descent would violate the constraint, whose gradient is ``normal``, and if another
    component remains.

    Reference:
        Rosen (1960), "The gradient projection method for nonlinear programming".

    Example:
        >>> project_out(np.array([-1.0, -3.0]), np.array([1.0, 1.0]))
        array([ 1., -1.])
        >>> project_out(np.array([1.0, -3.0]), np.array([1.0, 0.0]))
        array([ 1., -3.])
    """
    product = gradient @ normal
    if product >= 0:
        return gradient
    rest = gradient - product / (normal @ normal) * normal
    rest[np.abs(rest) <= ROUNDING * np.abs(gradient).max()] = 0.0
    return rest if rest.any() else gradient
