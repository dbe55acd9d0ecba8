"""The report of a hypergradient, of the loss or of a constraint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from optuna.trial import BaseTrial

from optuna_hypergrad.arguments import check_name
from optuna_hypergrad.reports.arrays import (
    FloatArray,
    array_names,
    checked_array_gradient,
    has_array_gradient,
    read_array,
    write_array_gradient,
)
from optuna_hypergrad.reports.attributes import (
    CONSTRAINT_GRADIENT,
    GRADIENT,
    GRADIENT_NORM,
    rounded,
    set_user_attr,
)
from optuna_hypergrad.reports.decisions import wants_hypergradient
from optuna_hypergrad.reports.growth import RunResult, StoredGrowth, report_growth, split_result
from optuna_hypergrad.reports.objective import as_float, check_trial, report_values


def report_hypergradient(
    trial: BaseTrial, gradient: Mapping[str, Any] | RunResult, *, constraint: str | None = None
) -> None:
    """Report the hypergradient of the trial's validation loss to the sampler.

    Call it once, before the objective returns. Entries that are NaN or infinite are stored as
    such and make the trial count as diverged. An empty gradient, that of a plain training, reports
    nothing if ``wants_hypergradient(trial)`` is False.

    With ``constraint``, report the hypergradient of a constraint instead, once for each:
    the samplers leave a point that violates constraints along these. It is enough to
    report it of a constraint that is violated. Entries that are NaN or infinite are ignored
    there, and if all are 0, the samplers proceed as if it were not reported.

    Args:
        trial: The running trial that the objective was given.
        gradient: Derivative of a loss to be *minimised*, whatever the study's direction, by the
            names of trial parameters, in loss per unit of the parameter. Floats, numpy scalars
            and tensors of one element; for an array of ``suggest_array``, an array or tensor of
            its shape, or single entries such as ``"lr_2_0"``. Parameters may be left out, and
            entries, which then do not move. Or the result of ``autodiff.hypergradient``,
            whose ``gradient`` and ``tensors`` are reported; of the loss, its ``growth`` is stored,
            too, and a warning logged where it makes signs noise.
        constraint: Name of the constraint that ``gradient`` is the derivative of: the ``key`` of
            ``Trial.set_constraint``, or ``"0"``, ``"1"``, … for the values that a
            ``constraints_func`` returns. None for the loss.

    Raises:
        ValueError: If ``gradient`` is empty, or neither a mapping nor a result; if it names a
            parameter that the trial has not suggested or that is categorical, or holds something
            other than one number or, for an array, an array of its shape; if it is of a constraint
            and names an array; if the trial has reported before, or is a ``FrozenTrial`` (to run
            an objective again, use a ``FixedTrial``).
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
    gradient, growth = split_result(gradient)
    if isinstance(gradient, Mapping) and not gradient:
        if constraint is None and not wants_hypergradient(trial):
            return
        raise ValueError(_EMPTY if constraint is None else _EMPTY_OF.format(constraint))
    gradient, arrays = _split_arrays(trial, gradient)
    if constraint is not None:
        check_name("constraint", constraint)
        if arrays:
            raise ValueError(f"gradient: {min(arrays)!r} is an array; constraints move none.")
        what = f"a hypergradient of the constraint {constraint!r}"
        report_values(trial, f"{CONSTRAINT_GRADIENT}:{constraint}", "gradient", gradient, what)
        return
    stored = None if growth is None else StoredGrowth.of(growth)  # before anything is written
    if arrays and has_array_gradient(trial):
        raise ValueError(f"trial {trial.number} has already reported a hypergradient.")
    values: Mapping[str, float] = {}
    if gradient or not arrays:
        values = report_values(trial, GRADIENT, "gradient", gradient, "a hypergradient")
    for name, array in arrays.items():
        write_array_gradient(trial, name, array)
    norms = [float(np.linalg.norm(array.astype(float))) for array in arrays.values()]
    norm = math.hypot(*values.values(), *norms)
    if math.isfinite(norm):
        set_user_attr(trial, GRADIENT_NORM, rounded(norm))
    if stored is not None:
        report_growth(trial, stored)


def _split_arrays(
    trial: BaseTrial, gradient: Mapping[str, Any]
) -> tuple[Mapping[str, Any], dict[str, FloatArray]]:
    """The entries of a gradient that are of parameters, and those of arrays."""
    names = array_names(trial)
    if not names or not isinstance(gradient, Mapping):
        return gradient, {}
    rest, arrays = dict(gradient), dict[str, FloatArray]()
    for name in names:
        array = read_array(trial, name)
        if array is None:
            continue
        shape = array.values.shape
        if name in rest:
            arrays[name] = checked_array_gradient(name, rest.pop(name), shape)
            continue
        indices = {entry_name(name, index): index for index in np.ndindex(shape)}
        entries = {index: rest.pop(entry) for entry, index in indices.items() if entry in rest}
        if entries:
            found = np.zeros(shape)
            for index, value in entries.items():
                found[index] = as_float("gradient", entry_name(name, index), value)
            arrays[name] = checked_array_gradient(name, found, shape)
    return rest, arrays


def entry_name(array: str, index: tuple[int, ...]) -> str:
    """The name of an entry of an array, that of a parameter of a schedule of this entry's row.

    Example:
        >>> entry_name("lr", (2, 0))
        'lr_2_0'
    """
    return "_".join((array, *map(str, index)))


_EMPTY = (
    "gradient is empty: nothing in the update is a Schedule, so that nothing can be learned; "
    "see optuna_hypergrad.suggest_schedule."
)
_EMPTY_OF = (
    "gradient is empty; expected the derivative of the constraint {!r} by at least one parameter. "
    "Leave out the call where the constraint depends on none."
)
