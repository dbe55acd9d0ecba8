"""The report of a hypergradient, of the loss or of a constraint."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.trial import BaseTrial

from optuna_hypergrad.algorithms.ranges import Array
from optuna_hypergrad.arguments import check_name
from optuna_hypergrad.reports.arrays import (
    array_names,
    as_array,
    has_array_gradient,
    read_array,
    write_array_gradient,
)
from optuna_hypergrad.reports.attributes import (
    CONSTRAINT_GRADIENT,
    GRADIENT,
    GRADIENT_NORM,
    read_report,
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
            its shape, or single entries such as ``"lr_2_0"``. Parameters may be left out; entries
            that are left out count as 0. Or the result of ``autodiff.hypergradient``, of which
            ``gradient`` is reported, and those ``tensors`` that are arrays of the trial; of the
            loss, its ``growth`` is stored, too, and a warning logged where it makes signs noise.
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
    tensors = getattr(gradient, "tensors", {})
    gradient, growth = split_result(gradient)
    names, arrays = array_names(trial), dict[str, Array]()
    if isinstance(gradient, Mapping):
        gradient, arrays = _split_arrays(trial, names, gradient, tensors)
        if not gradient and not arrays:
            if constraint is None and not wants_hypergradient(trial):
                return
            of_arrays = _EMPTY_OF_ARRAYS if names else _EMPTY
            raise ValueError(of_arrays if constraint is None else _EMPTY_OF.format(constraint))
    if constraint is not None:
        check_name("constraint", constraint)
        if arrays:
            raise ValueError(f"gradient: {min(arrays)!r} is an array; constraints move none.")
        what = f"a hypergradient of the constraint {constraint!r}"
        report_values(trial, f"{CONSTRAINT_GRADIENT}:{constraint}", "gradient", gradient, what)
        return
    stored = None if growth is None else StoredGrowth.of(growth)  # before anything is written
    if (names and has_array_gradient(trial)) or (arrays and _has_reported(trial)):
        raise ValueError(f"trial {trial.number} has already reported a hypergradient.")
    values: Mapping[str, float] = {}
    if gradient or not arrays:
        values = report_values(trial, GRADIENT, "gradient", gradient, "a hypergradient")
    for name, array in arrays.items():
        write_array_gradient(trial, name, array)
    norm = math.hypot(*values.values(), *(math.hypot(*array.flat) for array in arrays.values()))
    if math.isfinite(norm):
        set_user_attr(trial, GRADIENT_NORM, rounded(norm))
    if stored is not None:
        report_growth(trial, stored)


def _has_reported(trial: BaseTrial) -> bool:
    return read_report(trial, GRADIENT, lambda fields: fields) is not None


def _split_arrays(
    trial: BaseTrial,
    names: Sequence[str],
    gradient: Mapping[str, Any],
    tensors: Mapping[str, Any],
) -> tuple[Mapping[str, Any], dict[str, Array]]:
    """The entries of a gradient that are of parameters, and the hypergradients of arrays.

    Tensors that are no arrays of the trial are left out: the engine differentiates all.
    """
    read = ((name, read_array(trial, name)) for name in names)
    shapes = {name: array.values.shape for name, array in read if array is not None}
    if not shapes:
        return gradient, {}
    given = {**gradient, **{name: t for name, t in tensors.items() if name in shapes}}
    parameters, rest, arrays = trial.distributions, dict[str, Any](), dict[str, Array]()
    for name, value in given.items():
        if name in shapes:
            arrays[name] = as_array(f"gradient: {name!r}", value, shapes[name])
            continue
        found = [] if name in parameters else _entries_named(name, shapes)
        if len(found) > 1:
            owners = " and ".join(repr(array) for array, _ in found)
            raise ValueError(f"gradient: {name!r} is an entry of {owners}; rename an array.")
        if not found:
            rest[name] = value
            continue
        array, index = found[0]
        entries = arrays.setdefault(array, np.zeros(shapes[array]))
        entries[index] = as_float("gradient", name, value)
    return rest, arrays


def _entries_named(
    name: str, shapes: Mapping[str, tuple[int, ...]]
) -> list[tuple[str, tuple[int, ...]]]:
    """The entries that a name may mean, as arrays and indices: ``lr_2_0`` of ``lr`` is (2, 0).

    It is the name of a schedule's parameter, so that the last index is missing in rows of one.
    """
    found = []
    for array, shape in shapes.items():
        text = name.removeprefix(f"{array}_") if name.startswith(f"{array}_") else ""
        parts = text.split("_")
        if not all(part.isdecimal() and part.isascii() for part in parts):
            continue
        index = (*map(int, parts), *((0,) if shape[-1] == 1 and len(parts) < len(shape) else ()))
        if len(index) == len(shape) and all(i < n for i, n in zip(index, shape, strict=True)):
            found.append((array, index))
    return found


_EMPTY_OF_ARRAYS = (
    "gradient has nothing of this trial's arrays: pass them to autodiff.hypergradient among hypers "
    "under their names, and do not leave them out of learn."
)
_EMPTY = (
    "gradient is empty: nothing in the update is a Schedule, so that nothing can be learned; "
    "see optuna_hypergrad.suggest_schedule."
)
_EMPTY_OF = (
    "gradient is empty; expected the derivative of the constraint {!r} by at least one parameter. "
    "Leave out the call where the constraint depends on none."
)
