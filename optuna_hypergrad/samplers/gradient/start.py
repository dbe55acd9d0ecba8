"""Where searches start, and with which step sizes."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping

import numpy as np
from optuna.distributions import BaseDistribution

from optuna_hypergrad.algorithms.ranges import Array, Ranges
from optuna_hypergrad.samplers.distributions import ranges_of, to_distribution


def start_value(
    name: str,
    distribution: BaseDistribution,
    given: Mapping[str, float],
    entropy: tuple[int, int, int],
) -> float | int:
    """The value at which a parameter starts, in natural units.

    The first start of the first chain is as given, or that of the range; all others are drawn
    uniformly (in log space for log ranges).

    Args:
        name: The parameter.
        distribution: Its distribution, numeric.
        given: Starts by parameter or schedule.
        entropy: (seed, chain, number of starts that diverged).
    """
    ranges = ranges_of([distribution])
    _, chain, restarts = entropy
    own = _setting(name, given)
    if chain or restarts:
        rng = np.random.default_rng([*entropy, zlib.crc32(name.encode())])
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


def _setting(name: str, given: Mapping[str, float]) -> float | None:
    """What was given for a parameter, or else for the schedule that it belongs to."""
    schedule, _, index = name.rpartition("_")
    return given.get(name, given.get(schedule) if index.isdecimal() else None)
