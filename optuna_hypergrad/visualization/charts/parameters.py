"""Hyperparameters as axes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial

from optuna_hypergrad.samplers.distributions import is_log, is_numeric
from optuna_hypergrad.visualization.charts.marks import Axis

MARGIN = 0.02  # of the range, at each end of an axis


class Parameter(NamedTuple):
    """A hyperparameter, and its range in the latest trial that had it."""

    name: str
    distribution: BaseDistribution

    @property
    def is_log(self) -> bool:
        """Whether its range is logarithmic."""
        return is_log(self.distribution)

    @property
    def range(self) -> tuple[float, float]:
        """Where positions lie, from end to end."""
        if isinstance(self.distribution, CategoricalDistribution):
            return -0.5, len(self.distribution.choices) - 0.5
        assert isinstance(self.distribution, FloatDistribution | IntDistribution)
        return float(self.distribution.low), float(self.distribution.high)

    def axis(self, *, whole: bool = False) -> Axis:
        """Its axis; ``whole``: the range with a margin, whatever is drawn."""
        ticks = None
        if isinstance(self.distribution, CategoricalDistribution):
            ticks = {float(i): str(choice) for i, choice in enumerate(self.distribution.choices)}
        is_integer = isinstance(self.distribution, IntDistribution) and not self.is_log
        limits = self._with_margin() if whole else None
        return Axis(self.name, self.is_log, is_integer, ticks, limits)

    def _with_margin(self) -> tuple[float, float]:
        low, high = self.range
        if self.is_log:
            factor = (high / low) ** MARGIN
            return low / factor, high * factor
        return low - MARGIN * (high - low), high + MARGIN * (high - low)

    def at(self, values: Mapping[str, Any]) -> float:
        """Where a trial's value lies on the axis; NaN if it has none."""
        if self.name not in values:
            return math.nan
        if is_numeric(self.distribution):
            return float(values[self.name])
        return float(self.distribution.to_internal_repr(values[self.name]))


def parameters_of(trials: Iterable[FrozenTrial]) -> dict[str, Parameter]:
    """The parameters of trials that leave a choice, by name, in the order that they came up."""
    found: dict[str, BaseDistribution] = {}
    for trial in trials:
        found |= trial.distributions
    return {name: Parameter(name, one) for name, one in found.items() if not one.single()}
