"""Hyperparameters as axes.

The hyperparameters of a search, as its figures see them: schedules, or parameters alone.
"""

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

from optuna_hypergrad.reports import Shape, StoredDataError, read_shapes
from optuna_hypergrad.samplers.distributions import is_log, is_numeric
from optuna_hypergrad.samplers.gradient.history import OuterStep
from optuna_hypergrad.schedules import Form, count_values, parameter_names
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


class PlottedHparam(NamedTuple):
    """A hyperparameter: a schedule of several parameters, or one parameter alone."""

    name: str
    parameters: tuple[str, ...]
    form: Form
    first: Parameter  # of its parameters

    @property
    def is_schedule(self) -> bool:
        """Whether it has several values."""
        return len(self.parameters) > 1

    @property
    def is_log(self) -> bool:
        """Whether its range is logarithmic."""
        return self.first.is_log

    @property
    def places(self) -> list[float]:
        """Where in training each value rules, as a fraction: mid-window, or at its knot."""
        n = len(self.parameters)
        if self.form == "constant":
            return [(i + 0.5) / n for i in range(n)]
        return [i / max(n - 1, 1) for i in range(n)]


def plotted_hparams(
    trials: Sequence[FrozenTrial], steps: Sequence[OuterStep], learned: bool
) -> list[PlottedHparam]:
    """The hyperparameters of some steps, in the order in which they were suggested."""
    ran = [trials[number] for step in steps for number in step.trials]
    known: dict[str, BaseDistribution] = {}
    shapes: dict[str, Shape] = {}
    for trial in ran:
        known |= trial.distributions
        shapes |= read_shapes(trial)
    reported = {name for step in steps for report in step.reports for name in report}
    hypers = _grouped(known, shapes)
    return [h for h in hypers if not learned or not reported.isdisjoint(h.parameters)]


def _grouped(
    known: Mapping[str, BaseDistribution], shapes: Mapping[str, Shape]
) -> list[PlottedHparam]:
    of_parameter: dict[str, PlottedHparam] = {}
    for name, shape in shapes.items():
        parameters = parameter_names(name, shape.size)
        if all(parameter in known for parameter in parameters):
            first = Parameter(parameters[0], known[parameters[0]])
            hyper = PlottedHparam(name, parameters, _form(name, shape), first)
            of_parameter |= dict.fromkeys(parameters, hyper)
    alone = {
        name: PlottedHparam(name, (name,), "constant", Parameter(name, one))
        for name, one in known.items()
    }
    return [*dict.fromkeys((alone | of_parameter).values())]


def _form(name: str, shape: Shape) -> Form:
    is_whole = shape.size >= count_values(shape.form, 1)
    if shape.form not in get_args(Form) or not is_whole:
        raise StoredDataError(f"schedule {name!r} is stored as {shape}, which is none.")
    return cast(Form, shape.form)
