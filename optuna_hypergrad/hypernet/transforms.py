"""Natural values of hyperparameters, and the unconstrained numbers that gradients move.

A transform maps any real number u to a natural value inside a hyperparameter's range, smoothly
and one to one. ``constrain`` is made of torch operations: autograd gives d natural / d u.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from optuna_hypergrad.arguments import checked_number

MARGIN = 1e-3
"""How near to a bound a bounded value may start, as a fraction of its range."""


class Transform(Protocol):
    """What a transform offers."""

    @property
    def low(self) -> float:
        """The least natural value."""
        ...

    @property
    def high(self) -> float:
        """The greatest natural value; infinity where there is none."""
        ...

    def constrain(self, u: Tensor) -> Tensor:
        """Natural values of the unconstrained ``u``, of the same shape."""
        ...

    def unconstrain(self, value: float) -> float:
        """The unconstrained number of a natural value; a ValueError where it is out of range."""
        ...


@dataclass(frozen=True)
class Bounded:
    """Values between two bounds: low + (high − low) · sigmoid(u).

    Args:
        low: Lower bound.
        high: Upper bound. ``unconstrain`` moves values at a bound inside, by 0.001 of the range.

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
        """Natural values of ``u``."""
        return self.low + (self.high - self.low) * torch.sigmoid(u)

    def unconstrain(self, value: float) -> float:
        """The u of a natural value."""
        return _logit((value - self.low) / (self.high - self.low), value, self)


@dataclass(frozen=True)
class Unbounded:
    """Any real number: u itself.

    Example:
        >>> Unbounded().unconstrain(-3.0)
        -3.0
    """

    @property
    def low(self) -> float:
        """There is no lower bound."""
        return -math.inf

    @property
    def high(self) -> float:
        """There is no upper bound."""
        return math.inf

    def constrain(self, u: Tensor) -> Tensor:
        """Natural values of ``u``."""
        return u

    def unconstrain(self, value: float) -> float:
        """The u of a natural value."""
        return checked_number("value", value, "be finite")


@dataclass(frozen=True)
class Log:
    """Positive values between two bounds, on a log scale: low · (high / low)^sigmoid(u).

    Args:
        low: Lower bound, positive.
        high: Upper bound. ``unconstrain`` moves values at a bound inside, by 0.001 of the range
            of the logarithm.

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
        """Natural values of ``u``."""
        return self.low * torch.exp(math.log(self.high / self.low) * torch.sigmoid(u))

    def unconstrain(self, value: float) -> float:
        """The u of a natural value."""
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

    def __post_init__(self) -> None:
        checked_number("low", self.low)

    @property
    def high(self) -> float:
        """There is no upper bound."""
        return math.inf

    def constrain(self, u: Tensor) -> Tensor:
        """Natural values of ``u``."""
        return self.low + F.softplus(u)

    def unconstrain(self, value: float) -> float:
        """The u of a natural value."""
        margin = 1e-6
        if not self.low - margin <= value < math.inf:
            raise ValueError(f"value must lie in the range of {self}, got {value!r}.")
        above = max(value - self.low, margin)
        return above + math.log(-math.expm1(-above))  # log(exp(above) − 1) without overflow


@dataclass(frozen=True)
class Discrete:
    """Whole numbers from low to high: the floor of a value bounded to [low, high + 1).

    The floor has no useful derivative: d natural / d u is that of the bounded value under it.

    Args:
        low: Least value.
        high: Greatest value, included. ``unconstrain`` gives the middle of a value's cell.

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
        """Natural values of ``u``, whole numbers in its dtype."""
        value = self._cells.constrain(u)
        whole = value.detach().floor().clamp(max=self.high)  # sigmoid rounds up to 1 far out
        return value + (whole - value.detach())

    def unconstrain(self, value: float) -> float:
        """The u in the middle of the cell of a whole number."""
        if value != int(value):
            raise ValueError(f"value must be a whole number for {self}, got {value!r}.")
        return self._cells.unconstrain(value + 0.5)

    @property
    def _cells(self) -> Bounded:
        return Bounded(self.low, self.high + 1)


def _check_finite(transform: Transform) -> None:
    for argument in ("low", "high"):
        checked_number(argument, getattr(transform, argument))


def _logit(fraction: float, value: float, transform: Transform) -> float:
    """Inverse of the sigmoid; a margin on either side of a bound is moved inside."""
    if not -MARGIN <= fraction <= 1 + MARGIN:
        raise ValueError(f"value must lie in the range of {transform}, got {value!r}.")
    inside = min(max(fraction, MARGIN), 1 - MARGIN)
    return math.log(inside / (1 - inside))
