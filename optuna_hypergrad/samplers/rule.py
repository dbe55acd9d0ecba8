"""How a search starts and moves, as the user chose it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from optuna_hypergrad.arguments import checked_count, checked_number


@dataclass(frozen=True)
class Rule:
    """The arguments of GradientSampler that bear on the path of a search; it documents them.

    Raises:
        ValueError: If one is out of range; the message names it.
    """

    safeguard: float | None
    start: Mapping[str, float]
    step_size: Mapping[str, float]
    n_replicates: int
    tolerance: float

    def __post_init__(self) -> None:
        if self.safeguard is not None:
            expected = "be at least 0, or None"
            checked_number("safeguard", self.safeguard, expected, lambda x: 0 <= x < math.inf)
        _check_floats("start", self.start)
        _check_floats("step_size", self.step_size)
        for name, size in self.step_size.items():
            if size <= 0:
                raise ValueError(f"step_size: {name!r} must be positive, got {size}.")
        checked_count("n_replicates", self.n_replicates)
        checked_number("tolerance", self.tolerance, "lie in [0, 1)", lambda x: 0 <= x < 1)


def _check_floats(argument: str, given: Mapping[str, float]) -> None:
    if not isinstance(given, Mapping):
        raise ValueError(f"{argument} must map names to floats, got {given!r}.")
    for name, value in given.items():
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"{argument}: {name!r} must be a finite number, got {value!r}.")
