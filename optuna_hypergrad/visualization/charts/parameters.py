"""Hyperparameters as figures show them: parameters as axes, and schedules of several of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast, get_args

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial

from optuna_hypergrad.reports.arrays import array_names
from optuna_hypergrad.reports.attributes import StoredDataError
from optuna_hypergrad.reports.objective import Shape, read_shapes
from optuna_hypergrad.samplers.distributions import is_log, is_numeric
from optuna_hypergrad.samplers.gradient.history import OuterStep
from optuna_hypergrad.schedules import Form, count_values, parameter_names
from optuna_hypergrad.visualization.charts import Axis

MARGIN = 0.02  # of the range, at each end of an axis


class Parameter(NamedTuple):
    """A trial parameter, with its distribution in the latest trial that had it."""

    name: str
    distribution: BaseDistribution

    @property
    def is_log(self) -> bool:
        return is_log(self.distribution)

    @property
    def range(self) -> tuple[float, float]:
        """The ends of its range; the i-th choice of a categorical parameter lies at i."""
        if isinstance(self.distribution, CategoricalDistribution):
            return -0.5, len(self.distribution.choices) - 0.5
        assert isinstance(self.distribution, FloatDistribution | IntDistribution)
        return float(self.distribution.low), float(self.distribution.high)

    def axis(self, *, full_range: bool = False) -> Axis:
        """Its axis, over its range or over what is drawn."""
        ticks = None
        if isinstance(self.distribution, CategoricalDistribution):
            ticks = {float(i): str(choice) for i, choice in enumerate(self.distribution.choices)}
        is_integer = isinstance(self.distribution, IntDistribution) and not self.is_log
        limits = self._range_with_margin() if full_range else None
        return Axis(self.name, self.is_log, is_integer, ticks, limits)

    def _range_with_margin(self) -> tuple[float, float]:
        low, high = self.range
        if self.is_log:
            factor = (high / low) ** MARGIN
            return low / factor, high * factor
        return low - MARGIN * (high - low), high + MARGIN * (high - low)

    def position(self, params: Mapping[str, Any]) -> float:
        """Where its value lies on the axis; NaN if it has none."""
        if self.name not in params:
            return math.nan
        if is_numeric(self.distribution):
            return float(params[self.name])
        return float(self.distribution.to_internal_repr(params[self.name]))


def parameters_of(trials: Iterable[FrozenTrial]) -> dict[str, Parameter]:
    """The parameters of trials by name, without those that have a single possible value."""
    found: dict[str, BaseDistribution] = {}
    for trial in trials:
        found |= trial.distributions
    return {name: Parameter(name, one) for name, one in found.items() if not one.single()}


class PlottedHparam(NamedTuple):
    """A hyperparameter of a search: a schedule, or a single parameter."""

    name: str
    parameters: tuple[str, ...]
    form: Form
    first: Parameter  # the first of ``parameters``

    @property
    def is_schedule(self) -> bool:
        """Whether it has several values."""
        return len(self.parameters) > 1

    @property
    def is_log(self) -> bool:
        return self.first.is_log

    @property
    def times(self) -> list[float]:
        """Where in training each value lies, from 0 to 1: mid-window, or at its knot."""
        n = len(self.parameters)
        if self.form == "constant":
            return [(i + 0.5) / n for i in range(n)]
        return [i / max(n - 1, 1) for i in range(n)]


def plotted_hparams(
    trials: Sequence[FrozenTrial], steps: Sequence[OuterStep], has_gradient: bool
) -> list[PlottedHparam]:
    """The hyperparameters of outer steps in the order in which they were suggested.

    Args:
        trials: All trials of the study.
        steps: The outer steps.
        has_gradient: Leave out hyperparameters without a hypergradient.
    """
    distributions: dict[str, BaseDistribution] = {}
    shapes: dict[str, Shape] = {}
    for trial in (trials[number] for step in steps for number in step.trials):
        arrays = array_names(trial)  # of which a parameter is only the mean
        distributions |= {n: d for n, d in trial.distributions.items() if n not in arrays}
        shapes |= read_shapes(trial)
    by_parameter = {
        name: PlottedHparam(name, (name,), "constant", Parameter(name, distribution))
        for name, distribution in distributions.items()
    }
    for name, shape in shapes.items():
        names = parameter_names(name, shape.size)
        if distributions.keys() >= set(names):
            if shape.form not in get_args(Form) or shape.size < count_values(shape.form, 1):
                raise StoredDataError(f"schedule {name!r} is stored as {shape}: not a schedule.")
            first = Parameter(names[0], distributions[names[0]])
            hparam = PlottedHparam(name, names, cast(Form, shape.form), first)
            by_parameter |= dict.fromkeys(names, hparam)
    found = [*dict.fromkeys(by_parameter.values())]
    reported = {name for step in steps for report in step.reports for name in report}
    return [h for h in found if not has_gradient or not reported.isdisjoint(h.parameters)]
