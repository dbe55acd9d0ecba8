"""How a search starts and moves, as the user chose it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from optuna_hypergrad.schedules import checked_count


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
        if self.safeguard is not None and not 0 <= self.safeguard < math.inf:
            raise ValueError(f"safeguard must be at least 0, or None, got {self.safeguard}.")
        _check_floats("start", self.start)
        _check_floats("step_size", self.step_size)
        for name, size in self.step_size.items():
            if size <= 0:
                raise ValueError(f"step_size: {name!r} must be positive, got {size}.")
        checked_count("n_replicates", self.n_replicates)
        if not 0 <= self.tolerance < 1:
            raise ValueError(f"tolerance must lie in [0, 1), got {self.tolerance}.")


def _check_floats(argument: str, given: Mapping[str, float]) -> None:
    if not isinstance(given, Mapping):
        raise ValueError(f"{argument} must map names to floats, got {given!r}.")
    for name, value in given.items():
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"{argument}: {name!r} must be a finite number, got {value!r}.")
