"""The space of an array: its shape and the range of its entries."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from optuna.distributions import FloatDistribution

from optuna_hypergrad import arguments
from optuna_hypergrad.algorithms.ranges import Array, Ranges
from optuna_hypergrad.reports.arrays import MOST_ENTRIES, FloatArray, StoredArray

Lengths = int | tuple[int, ...] | list[int]


class Space(NamedTuple):
    """The entries of an array."""

    shape: tuple[int, ...]
    low: float
    high: float
    log: bool

    @classmethod
    def of(cls, low: float, high: float, shape: Lengths, log: bool) -> Space:
        lengths = shape if isinstance(shape, tuple | list) else (shape,)
        if not lengths:
            raise ValueError("shape must have a dimension at least, got (); see suggest_schedule.")
        arguments.check_kind("log", log, bool, "True or False")
        lows = arguments.checked_number("low", low)
        highs = arguments.checked_number("high", high)
        FloatDistribution(lows, highs, log=log)  # raises what Optuna raises
        if lows == highs:
            raise ValueError(f"low must be below high, got {low!r} for both.")
        with np.errstate(over="ignore", under="ignore"):
            held = np.float32(lows), np.float32(highs)
        if held[0] >= held[1] or not np.isfinite(held).all() or (log and held[0] <= 0):
            raise ValueError(f"low and high: 32-bit floats do not hold [{low!r}, {high!r}].")
        counts = tuple(arguments.checked_count("shape", length) for length in lengths)
        if math.prod(counts) > MOST_ENTRIES:
            raise ValueError(f"shape must have at most {MOST_ENTRIES} entries, got {counts}.")
        return cls(counts, lows, highs, log)

    @property
    def ranges(self) -> Ranges:
        """The same range for all entries: arrays of one number."""
        return Ranges(np.array([self.low]), np.array([self.high]), np.array([self.log]))

    def contains(self, value: float) -> bool:
        """Whether a number is in the range."""
        return self.low <= value <= self.high

    def full(self, value: ArrayLike) -> FloatArray:
        """An array of a number, or of the entries of another one, rounded into the range."""
        found = np.broadcast_to(np.asarray(value, np.float32), self.shape).copy()
        found = np.where(found.astype(float) > self.high, np.nextafter(found, -np.inf), found)
        return np.where(found.astype(float) < self.low, np.nextafter(found, np.inf), found)

    def mean(self, values: FloatArray) -> float:
        """The mean of the entries, on their scale."""
        search = self.ranges.to_search(values.astype(float)).mean()
        return float(self.ranges.to_natural(search)[0])

    def check(self, stored: StoredArray, name: str, where: str) -> None:
        """Raise a ValueError if a stored array is not of this space."""
        known = Space(stored.values.shape, stored.low, stored.high, stored.log)
        if known != self:
            raise ValueError(
                f"name: {where} has an array {name!r} with {known._asdict()} instead of "
                f"{self._asdict()}; give the new one another name."
            )


def checked_start(start: ArrayLike, space: Space) -> Array:
    try:
        found = start.detach().cpu() if hasattr(start, "detach") else start
        found = np.broadcast_to(np.asarray(found, dtype=float), space.shape)
    except (TypeError, ValueError) as error:
        raise ValueError(f"start must be numbers of shape {space.shape}, or one: {error}") from None
    if not ((found >= space.low) & (found <= space.high)).all():
        raise ValueError(
            f"start must lie in [{space.low:g}, {space.high:g}], got values from "
            f"{found.min():g} to {found.max():g}."
        )
    return found
