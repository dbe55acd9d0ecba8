"""Optuna's distributions: their search ranges, the values that they contain, and where searches
start in them."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial

from optuna_hypergrad.algorithms.ranges import Array, Ranges


def ranges_of(distributions: Sequence[BaseDistribution], kind: type[Ranges] = Ranges) -> Ranges:
    """Search ranges of numeric distributions."""
    numeric = [d for d in distributions if isinstance(d, FloatDistribution | IntDistribution)]
    return kind(
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


def start_value(
    name: str,
    distribution: BaseDistribution,
    given: Mapping[str, float],
    entropy: tuple[int, int, int],
    *,
    of_group: bool = False,
) -> float | int:
    """The value at which a parameter starts, in natural units.

    The first start of the first chain is as given, or that of the range; all others are drawn
    uniformly (in log space for log ranges).

    Args:
        name: The parameter.
        distribution: Its distribution, numeric.
        given: Starts by parameter or schedule.
        entropy: (seed, chain, number of starts that diverged).
        of_group: Whether the parameters of a schedule share the same random fraction.
    """
    ranges = ranges_of([distribution])
    _, chain, restarts = entropy
    own = _setting(name, given)
    if chain or restarts:
        drawn_for = schedule_of(name) if of_group else name
        rng = np.random.default_rng([*entropy, zlib.crc32(drawn_for.encode())])
        low, high = ranges.to_search(ranges.low), ranges.to_search(ranges.high)
        value = ranges.to_natural(rng.uniform(low, high))
    elif own is None:
        value = ranges.start()
    else:
        value = np.clip(own, ranges.low, ranges.high)
    return to_distribution(float(value[0]), distribution)


def first_step_sizes(names: Iterable[str], ranges: Ranges, given: Mapping[str, float]) -> Array:
    """First γ of each parameter: as given for it or its schedule, else that of its range."""
    sizes = ranges.step_size()
    for i, name in enumerate(names):
        own = _setting(name, given)
        sizes[i] = sizes[i] if own is None else own
    return sizes


def schedule_of(name: str) -> str:
    """The schedule whose parameter has this name, or the name itself."""
    schedule, _, index = name.rpartition("_")
    return schedule if index.isdecimal() else name


def _setting(name: str, given: Mapping[str, float]) -> float | None:
    """What was given for a parameter, or else for the schedule that it belongs to."""
    return given.get(name, given.get(schedule_of(name)))
