"""Maps between natural values of hyperparameters and unconstrained numbers.

A transform maps every real number u to a value in a hyperparameter's range, smoothly and one to
one. ``constrain`` consists of torch operations, so autograd gives d value / d u.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from optuna_hypergrad.arguments import checked_number

MARGIN = 1e-3  # smallest distance of an initial value from a bound, as a fraction of the range


class Transform(Protocol):
    """A map from all real numbers to the range of a hyperparameter."""

    @property
    def low(self) -> float:
        """Smallest natural value."""
        ...

    @property
    def high(self) -> float:
        """Largest natural value; infinity if unbounded."""
        ...

    def constrain(self, u: Tensor) -> Tensor:
        """Return the natural values of ``u``, of the same shape."""
        ...

    def unconstrain(self, value: float) -> float:
        """Return the u of a natural value; raise a ValueError if it is out of range."""
        ...


@dataclass(frozen=True)
class Bounded:
    """Values between two bounds: low + (high − low) · sigmoid(u).

    Args:
        low: Lower bound.
        high: Upper bound. ``unconstrain`` moves values at a bound inside by 0.001 of the range.

    Raises:
        ValueError: If ``low`` is not below ``high``.

    Example:
        >>> import torch
        >>> rate = Bounded(0.0, 0.9)
        >>> rate.constrain(torch.tensor(0.0)), rate.unconstrain(0.45)
        (tensor(0.4500), 0.0)
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        _check_finite(self)
        if not self.low < self.high:
            raise ValueError(f"low must be below high, got {self}.")

    def constrain(self, u: Tensor) -> Tensor:
        """Return the natural values of ``u``."""
        return self.low + (self.high - self.low) * torch.sigmoid(u)

    def unconstrain(self, value: float) -> float:
        """Return the u of a natural value."""
        return _logit((value - self.low) / (self.high - self.low), value, self)


@dataclass(frozen=True)
class Unbounded:
    """All real numbers: u itself.

    Example:
        >>> Unbounded().unconstrain(-3.0)
        -3.0
    """

    low: float = field(default=-math.inf, init=False, repr=False)
    high: float = field(default=math.inf, init=False, repr=False)

    def constrain(self, u: Tensor) -> Tensor:
        """Return ``u``."""
        return u

    def unconstrain(self, value: float) -> float:
        """Return the value, which must be finite."""
        return checked_number("value", value, "be finite")


@dataclass(frozen=True)
class Log:
    """Positive values between two bounds, on a log scale: low · (high / low)^sigmoid(u).

    Args:
        low: Lower bound, positive.
        high: Upper bound. ``unconstrain`` moves values at a bound inside by 0.001 of the range of
            the logarithm.

    Raises:
        ValueError: If not 0 < ``low`` < ``high``.

    Example:
        >>> Log(1e-4, 1.0).constrain(torch.tensor(0.0))
        tensor(0.0100)
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        _check_finite(self)
        if not 0 < self.low < self.high:
            raise ValueError(f"low must be positive and below high, got {self}.")

    def constrain(self, u: Tensor) -> Tensor:
        """Return the natural values of ``u``."""
        return self.low * torch.exp(math.log(self.high / self.low) * torch.sigmoid(u))

    def unconstrain(self, value: float) -> float:
        """Return the u of a natural value."""
        fraction = math.log(value / self.low) if value > 0 else -math.inf
        return _logit(fraction / math.log(self.high / self.low), value, self)


@dataclass(frozen=True)
class Positive:
    """Values above a bound: low + softplus(u).

    Args:
        low: Lower bound. ``unconstrain`` moves values at it up to low + 1e-6.

    Example:
        >>> Positive().constrain(torch.tensor(0.0))
        tensor(0.6931)
    """

    low: float = 0.0
    high: float = field(default=math.inf, init=False, repr=False)

    def __post_init__(self) -> None:
        checked_number("low", self.low)

    def constrain(self, u: Tensor) -> Tensor:
        """Return the natural values of ``u``."""
        return self.low + F.softplus(u)

    def unconstrain(self, value: float) -> float:
        """Return the u of a natural value."""
        margin = 1e-6
        if not self.low - margin <= value < math.inf:
            raise ValueError(f"value must lie in the range of {self}, got {value!r}.")
        above = max(value - self.low, margin)
        return above + math.log(-math.expm1(-above))  # log(exp(above) − 1) without overflow


@dataclass(frozen=True)
class Discrete:
    """Integers from low to high: the floor of a value bounded to [low, high + 1).

    Since the floor has no useful derivative, d value / d u is that of the bounded value.

    Args:
        low: Smallest value.
        high: Largest value, inclusive. ``unconstrain`` gives the middle of a value's cell.

    Raises:
        ValueError: If the bounds are not integers with ``low`` below ``high``.

    Example:
        >>> holes = Discrete(0, 4)
        >>> holes.constrain(torch.tensor([-9.0, 0.0, 9.0]))
        tensor([0., 2., 4.])
    """

    low: int
    high: int

    def __post_init__(self) -> None:
        _check_finite(self)
        if self.low != int(self.low) or self.high != int(self.high) or not self.low < self.high:
            raise ValueError(f"low and high must be integers, low below high, got {self}.")

    def constrain(self, u: Tensor) -> Tensor:
        """Return the integers of ``u``, in its dtype."""
        value = Bounded(self.low, self.high + 1).constrain(u)
        floor = value.detach().floor().clamp(max=self.high)  # sigmoid rounds up to 1 far out
        return value + (floor - value.detach())

    def unconstrain(self, value: float) -> float:
        """Return the u in the middle of the cell of an integer."""
        if value != int(value):
            raise ValueError(f"value must be an integer for {self}, got {value!r}.")
        return Bounded(self.low, self.high + 1).unconstrain(value + 0.5)


def _check_finite(transform: Transform) -> None:
    checked_number("low", transform.low)
    checked_number("high", transform.high)


def _logit(fraction: float, value: float, transform: Transform) -> float:
    """Return the inverse of the sigmoid; move fractions near 0 and 1 inside by the margin."""
    if not -MARGIN <= fraction <= 1 + MARGIN:
        raise ValueError(f"value must lie in the range of {transform}, got {value!r}.")
    inside = min(max(fraction, MARGIN), 1 - MARGIN)
    return math.log(inside / (1 - inside))
