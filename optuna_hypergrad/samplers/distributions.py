"""Optuna's distributions: their search ranges, and the values that they contain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial

from optuna_hypergrad.algorithms.ranges import Ranges


def ranges_of(distributions: Sequence[BaseDistribution]) -> Ranges:
    """Search ranges of numeric distributions."""
    numeric = [d for d in distributions if isinstance(d, FloatDistribution | IntDistribution)]
    return Ranges(
        np.array([d.low for d in numeric], dtype=float),
        np.array([d.high for d in numeric], dtype=float),
        np.array([d.log for d in numeric], dtype=bool),
    )


def to_distribution(value: float, distribution: BaseDistribution) -> float | int:
    """The nearest value that a numeric distribution contains."""
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high, step = distribution.low, distribution.high, distribution.step
    if step is not None:
        value = low + round((min(max(value, low), high) - low) / step) * step
    value = min(max(value, low), high)
    return round(value) if isinstance(distribution, IntDistribution) else float(value)


def is_numeric(distribution: BaseDistribution) -> bool:
    """Whether a parameter is a float or an integer."""
    return isinstance(distribution, FloatDistribution | IntDistribution)


def is_log(distribution: BaseDistribution) -> bool:
    """Whether a parameter has a logarithmic range."""
    return bool(getattr(distribution, "log", False))


def rounds_to(value: float, to: Any, distribution: BaseDistribution) -> bool:
    """Whether a value inside the range becomes ``to`` by rounding to an integer or a grid."""
    if not isinstance(distribution, FloatDistribution | IntDistribution):
        return False
    inside = distribution.low <= value <= distribution.high
    return inside and bool(to_distribution(value, distribution) == to)


def internal_values(trial: FrozenTrial) -> dict[str, float]:
    """A trial's parameters in Optuna's internal representation."""
    return {
        name: float(distribution.to_internal_repr(trial.params[name]))
        for name, distribution in trial.distributions.items()
    }


def proposed(values: Mapping[str, float], space: Mapping[str, BaseDistribution]) -> dict[str, Any]:
    """Proposals for the parameters of ``space`` that have a value.

    Args:
        values: In Optuna's internal representation; not rounded, and maybe of other ranges.
        space: The distributions now.
    """
    params: dict[str, Any] = {}
    for name, distribution in space.items():
        if name not in values:
            continue
        if not isinstance(distribution, CategoricalDistribution):
            params[name] = to_distribution(values[name], distribution)
        elif distribution._contains(values[name]):
            params[name] = distribution.to_external_repr(values[name])
    return params
