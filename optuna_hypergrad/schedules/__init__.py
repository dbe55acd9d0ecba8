"""Hyperparameters that change during training: one value per window of contiguous steps.

A schedule is a function of (step, horizon) with few parameters, each of them an ordinary Optuna
trial parameter. It knows its own derivative with respect to those parameters, so that
hypergradients reach them in every form.
"""

from optuna_hypergrad.schedules.collection import Schedules
from optuna_hypergrad.schedules.schedule import (
    Form,
    Schedule,
    check_form,
    count_values,
    interpolate,
    parameter_names,
)

__all__ = [
    "Form",
    "Schedule",
    "Schedules",
    "check_form",
    "count_values",
    "interpolate",
    "parameter_names",
]
