"""The hypergradient that an objective reports."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from optuna_hypergrad.reports.attributes import (
    check_trial,
    read_values,
    report_values,
    set_user_attr,
)
from optuna_hypergrad.reports.keys import GRADIENT, GRADIENT_NORM

if TYPE_CHECKING:
    from optuna.trial import BaseTrial, FrozenTrial

DIGITS = 6  # of what is only to be seen


def report_hypergradient(trial: BaseTrial, gradient: Mapping[str, Any]) -> None:
    """Report the hypergradient of the trial's validation loss to the sampler.

    Call it once, before the objective returns. Entries that are NaN or infinite are stored as
    such and make the trial count as diverged.

    Args:
        trial: The running trial that the objective was given.
        gradient: Derivative of a loss to be *minimised*, whatever the study's direction, by the
            names of trial parameters, in loss per unit of the parameter. Floats, numpy scalars
            and tensors of one element; parameters may be left out.

    Raises:
        ValueError: If ``gradient`` is empty, names what the trial has not suggested or cannot
            differentiate, or holds what is not one number; if the trial has reported before, or
            is a ``FrozenTrial`` (to run an objective again, use a ``FixedTrial``).
        optuna.exceptions.UpdateFinishedTrialError: If the trial has finished.

    Example:
        >>> import optuna
        >>> from optuna_hypergrad import GradientSampler, report_hypergradient
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> def objective(trial):
        ...     x = trial.suggest_float("x", -1, 1)
        ...     report_hypergradient(trial, {"x": 2 * (x - 0.3)})
        ...     return (x - 0.3) ** 2
        >>> study = optuna.create_study(sampler=GradientSampler(seed=0))
        >>> study.optimize(objective, n_trials=20)
        >>> round(study.best_params["x"], 2)
        0.3
    """
    check_trial(trial)
    values = report_values(trial, GRADIENT, "gradient", gradient, "a hypergradient")
    norm = float(np.linalg.norm(list(values.values())))
    if math.isfinite(norm):
        set_user_attr(trial, GRADIENT_NORM, float(f"{norm:.{DIGITS}g}"))


def read_gradient(trial: FrozenTrial) -> dict[str, float] | None:
    """The hypergradient that the trial itself reported, or None.

    A report that a retried or copied trial only inherited does not count.

    Raises:
        StoredDataError: If the attribute was not written by ``report_hypergradient``.
    """
    return read_values(trial, GRADIENT)
