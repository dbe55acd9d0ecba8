"""The hyperparameters of a search, as its figures see them: schedules, or parameters alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast, get_args

from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial

from optuna_hypergrad.reports import Shape, StoredDataError, read_shapes
from optuna_hypergrad.samplers.history import OuterStep
from optuna_hypergrad.schedules import Form, count_values, parameter_names
from optuna_hypergrad.visualization.charts.parameters import Parameter


class Hyper(NamedTuple):
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


def hypers_of(
    trials: Sequence[FrozenTrial], steps: Sequence[OuterStep], learned: bool
) -> list[Hyper]:
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


def _grouped(known: Mapping[str, BaseDistribution], shapes: Mapping[str, Shape]) -> list[Hyper]:
    of_parameter: dict[str, Hyper] = {}
    for name, shape in shapes.items():
        parameters = parameter_names(name, shape.size)
        if all(parameter in known for parameter in parameters):
            first = Parameter(parameters[0], known[parameters[0]])
            hyper = Hyper(name, parameters, _form(name, shape), first)
            of_parameter |= dict.fromkeys(parameters, hyper)
    alone = {
        name: Hyper(name, (name,), "constant", Parameter(name, one)) for name, one in known.items()
    }
    return [*dict.fromkeys((alone | of_parameter).values())]


def _form(name: str, shape: Shape) -> Form:
    is_whole = shape.size >= count_values(shape.form, 1)
    if shape.form not in get_args(Form) or not is_whole:
        raise StoredDataError(f"schedule {name!r} is stored as {shape}, which is none.")
    return cast(Form, shape.form)
