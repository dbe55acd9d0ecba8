"""Suggesting schedules in an objective."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import FrozenTrial

from optuna_hypergrad import arguments
from optuna_hypergrad.reports.objective import Shape, check_trial, read_shapes, report_shape
from optuna_hypergrad.schedules import Form, Schedule, check_form, count_values, parameter_names

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

FINE_WINDOWS = 64  # number of windows for ``windows="auto"``

# Names of schedules by trial. A retried trial has all its parameters before its objective suggests
# them, so its distributions do not show what was suggested.
_suggested: WeakKeyDictionary[BaseTrial, set[str]] = WeakKeyDictionary()


def suggest_schedule(
    trial: BaseTrial,
    name: str,
    low: float,
    high: float,
    *,
    windows: int | Literal["auto"] = 1,
    log: bool = False,
    form: Form = "constant",
) -> Schedule:
    """Suggest one float per window (or knot) of a schedule.

    Args:
        trial: An Optuna trial of any kind; ``FixedTrial(study.best_params)`` restores the best
            schedule.
        name: Name of the hyperparameter. Its trial parameters are ``name_0``, ``name_1``, …, or
            ``name`` alone for a constant schedule of one window.
        low: Lower bound of every value, inclusive.
        high: Upper bound of every value, inclusive.
        windows: Number of windows of equal length. Linear and cosine schedules have
            ``windows + 1`` knots. ``"auto"`` means 64 windows, of which sign descent
            (``GradientSampler(strategy="sign_descent")``) decides after each trial which adjacent
            ones move together: those whose hypergradients differ only by noise
            (``sampler.chains(study)`` returns them). Other samplers search all 64.
        log: Search, and move between knots, on a logarithmic scale; requires ``low > 0``.
        form: ``"constant"`` within each window, ``"linear"`` from knot to knot, or ``"cosine"``
            (one window: cosine annealing with both ends learned).

    Raises:
        ValueError: If ``windows`` is neither a positive integer nor ``"auto"``, ``form`` is
            unknown, Optuna rejects the range, or the trial has suggested something else under
            this name.

    Warns:
        UserWarning: If the objective suggests the same schedule again. As with
            ``trial.suggest_float`` it gets the same values: two hyperparameters then share them.

    Example:
        >>> from optuna.trial import FixedTrial
        >>> trial = FixedTrial({"lr_0": 0.5, "lr_1": 0.1, "momentum": 0.9})
        >>> suggest_schedule(trial, "lr", -1.0, 1.0, windows=2).at(60, steps=100)
        0.1
        >>> suggest_schedule(trial, "momentum", 0.0, 0.99).params
        {'momentum': 0.9}
    """
    check_trial(trial)
    arguments.check_name("name", name)
    check_form(form)
    arguments.checked_number("low", low)
    arguments.checked_number("high", high)
    arguments.check_kind("log", log, bool, "True or False")
    if isinstance(windows, str) and windows != "auto":
        raise ValueError(f"windows must be a positive integer or 'auto', got {windows!r}.")
    is_auto = windows == "auto"
    n_windows = FINE_WINDOWS if is_auto else arguments.checked_count("windows", windows)
    shape = Shape(count_values(form, n_windows), form, is_auto)
    names = parameter_names(name, shape.size)
    if not isinstance(trial, FrozenTrial):  # it only returns its values
        _check_name_is_free(trial, name, FloatDistribution(low, high, log=log), shape)
        if name in _suggested.setdefault(trial, set()):
            warnings.warn(
                f"name: {name!r} is suggested twice in one trial, so both schedules have the same "
                "values and are learned as one; give each schedule its own name.",
                stacklevel=2,
            )
        _suggested[trial].add(name)
    values = [trial.suggest_float(parameter, low, high, log=log) for parameter in names]
    if shape.size > 1:  # a single value has no shape to report
        report_shape(trial, name, shape)
    return Schedule(name, values, form, log)


def _check_name_is_free(
    trial: BaseTrial, name: str, distribution: FloatDistribution, shape: Shape
) -> None:
    """Raise a ValueError if the trial has suggested something else under the name of a schedule.

    Optuna would return the values suggested first, and at most warn.
    """
    suggested, names = trial.distributions, parameter_names(name, shape.size)
    clashes = [other for other in names if suggested.get(other, distribution) != distribution]
    if len(names) > 1 and name in suggested:
        clashes.append(name)
    first = f"{name}_0"
    if not clashes and first in suggested and read_shapes(trial).get(name, shape) != shape:
        clashes.append(first)
    if not clashes:
        return
    old_shape = read_shapes(trial).get(name, Shape(1, "constant", is_shared=False))
    old_name = next(other for other in (*clashes, name, first) if other in suggested)
    old, new = _arguments(suggested[old_name], old_shape), _arguments(distribution, shape)
    differing = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    before, now = (
        ", ".join(f"{key}={of[key]!r}" for key in differing if key in of) for of in (old, new)
    )
    known = name if name in suggested or name in read_shapes(trial) else old_name
    raise ValueError(
        f"name: this trial has suggested {known!r} before, with {before} instead of {now}; the "
        "second would get the values of the first. Give each schedule its own name."
    )


def _arguments(distribution: BaseDistribution, shape: Shape) -> dict[str, Any]:
    """Return the arguments of ``suggest_schedule`` that lead to a distribution and a shape."""
    if not isinstance(distribution, FloatDistribution) or distribution.step is not None:
        return {"distribution": distribution}
    windows = "auto" if shape.is_shared else shape.size + 1 - count_values(shape.form, 1)
    bounds = {"low": distribution.low, "high": distribution.high, "log": distribution.log}
    return {**bounds, "windows": windows, "form": shape.form}
