"""What a trial should have reported and did not; each is told once."""

from __future__ import annotations

import warnings
from collections.abc import Collection

from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial

from optuna_hypergrad.reports import (
    read_constraint_gradients,
    read_constraints,
    read_gradient,
    read_shapes,
)
from optuna_hypergrad.samplers.describe import describe_left_out, log_line
from optuna_hypergrad.schedules import parameter_names


class Gaps:
    """What was left out of reports, as far as a sampler has told of it."""

    def __init__(self) -> None:
        self._told: set[str] = set()  # parameters
        self._has_warned = False

    def tell_left_out(
        self, trial: FrozenTrial, fate: str, among: Collection[str] | None = None
    ) -> None:
        """Log which parameters' hypergradients a complete trial left out.

        Args:
            trial: The trial.
            fate: What becomes of these parameters.
            among: Tell of these parameters alone.
        """
        names = [name for name in left_out(trial, among) if name not in self._told]
        if names:
            self._told.update(names)
            log_line(lambda: describe_left_out(trial.number, names, fate))

    def warn_of_constraints(self, trial: FrozenTrial) -> None:
        """Warn of a hypergradient of a constraint that a complete trial does not have."""
        constraints = read_constraints(trial)
        unknown = [name for name in read_constraint_gradients(trial) if name not in constraints]
        if unknown and not self._has_warned:
            self._has_warned = True
            there = ", ".join(map(repr, constraints)) or "none"
            warnings.warn(_NO_CONSTRAINT.format(trial.number, unknown[0], there), stacklevel=4)


def left_out(trial: FrozenTrial, among: Collection[str] | None = None) -> list[str]:
    """The float parameters that a trial which reported hypergradients left out.

    A schedule that is left out as a whole is named instead of its parameters.
    """
    gradient = read_gradient(trial)
    if gradient is None:
        return []
    known = {*gradient}.union(*read_constraint_gradients(trial).values())
    floats = {n: d for n, d in trial.distributions.items() if isinstance(d, FloatDistribution)}
    names = {name: name for name, d in floats.items() if name not in known and not d.single()}
    names = {name: name for name in names if among is None or name in among}
    for schedule, shape in read_shapes(trial).items():
        own = parameter_names(schedule, shape.size)
        if names.keys() >= {*own}:
            names |= dict.fromkeys(own, schedule)
    return [*dict.fromkeys(names.values())]


_NO_CONSTRAINT = (
    "Trial {} reported a hypergradient of the constraint {!r}, but its constraints are {}; give "
    "report_hypergradient(..., constraint=...) the name that trial.set_constraint was given, or "
    "the index of a value of constraints_func."
)
