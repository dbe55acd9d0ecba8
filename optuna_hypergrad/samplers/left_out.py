"""Parameters that a trial could have learned, but reported no hypergradient of."""

from __future__ import annotations

from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial

from optuna_hypergrad.reports import read_constraint_gradients, read_gradient, read_shapes
from optuna_hypergrad.schedules import parameter_names


def left_out(trial: FrozenTrial) -> list[str]:
    """The float parameters that a trial which reported hypergradients left out.

    A schedule that is left out as a whole is named instead of its parameters.
    """
    gradient = read_gradient(trial)
    if gradient is None:
        return []
    known = {*gradient}.union(*read_constraint_gradients(trial).values())
    floats = {n: d for n, d in trial.distributions.items() if isinstance(d, FloatDistribution)}
    names = {name: name for name, d in floats.items() if name not in known and not d.single()}
    for schedule, shape in read_shapes(trial).items():
        own = parameter_names(schedule, shape.size)
        if names.keys() >= {*own}:
            names |= dict.fromkeys(own, schedule)
    return [*dict.fromkeys(names.values())]
