"""How a trial suggests a schedule."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import FrozenTrial

from optuna_hypergrad.arguments import check_kind, check_name, checked_count, checked_number
from optuna_hypergrad.reports import Shape, check_trial, read_shapes, report_shape
from optuna_hypergrad.schedules import (
    Form,
    Schedule,
    check_form,
    count_values,
    parameter_names,
)

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

FINE_WINDOWS = 64  # of ``windows="auto"``


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
        trial: An Optuna trial of any kind; a ``FixedTrial(study.best_params)`` gives the best
            schedule back.
        name: Name of the hyperparameter; its trial parameters are ``name_0``, ``name_1``, …, or
            ``name`` alone for a constant schedule of one window.
        low: Lower end of the range of every value, inclusive.
        high: Upper end of the range of every value, inclusive.
        windows: Number of windows of equal length that the run is cut into. Linear and cosine
            schedules have ``windows + 1`` knots. With ``"auto"`` there are 64, and
            ``GradientSampler`` decides after each trial which neighbours move together: those
            whose hypergradients differ by no more than noise (``sampler.chains(study)`` tells
            them). To other samplers it is a schedule of 64 windows.
        log: Search (and move between knots) on a logarithmic scale; needs ``low > 0``.
        form: ``"constant"`` within each window, ``"linear"`` from knot to knot, or ``"cosine"``
            (one window: a cosine with both ends learned).

    Raises:
        ValueError: If ``windows`` is neither a positive integer nor ``"auto"``, ``form`` is
            unknown, or Optuna rejects the range; if the trial has suggested something else under
            this name.

    Warns:
        UserWarning: If the objective suggests the same schedule again, which gives the same
            values, as with ``trial.suggest_float``: two hyperparameters then share them.

    Example:
        >>> from optuna.trial import FixedTrial
        >>> trial = FixedTrial({"lr_0": 0.5, "lr_1": 0.1, "momentum": 0.9})
        >>> suggest_schedule(trial, "lr", -1.0, 1.0, windows=2).at(60, steps=100)
        0.1
        >>> suggest_schedule(trial, "momentum", 0.0, 0.99).params
        {'momentum': 0.9}
    """
    check_trial(trial)
    check_name("name", name)
    check_form(form)
    for argument, bound in (("low", low), ("high", high)):
        checked_number(argument, bound)
    check_kind("log", log, bool, "True or False")
    if isinstance(windows, str) and windows != "auto":
        raise ValueError(f"windows must be a positive integer or 'auto', got {windows!r}.")
    is_auto = windows == "auto"
    count = count_values(form, FINE_WINDOWS if is_auto else checked_count("windows", windows))
    names = parameter_names(name, count)
    shape = Shape(count, form, is_auto)
    _check_name_is_free(trial, name, names, FloatDistribution(low, high, log=log), shape)
    _warn_of_two(trial, name)
    values = [trial.suggest_float(parameter, low, high, log=log) for parameter in names]
    if count > 1:  # a single value says it all
        report_shape(trial, name, shape)
    return Schedule(name, values, form, log)


def _check_name_is_free(
    trial: BaseTrial, name: str, names: Sequence[str], among: FloatDistribution, shape: Shape
) -> None:
    """ValueError if the trial has suggested something else under the name of a schedule.

    Optuna would give the values of what came first, and at most warn.
    """
    if isinstance(trial, FrozenTrial):  # it has all its parameters from the beginning
        return
    had = trial.distributions
    taken = [parameter for parameter in names if had.get(parameter, among) != among]
    if len(names) > 1 and name in had:
        taken.append(name)
    first = parameter_names(name, 2)[0]
    if not taken and first in had and read_shapes(trial).get(name, shape) != shape:
        taken.append(first)
    if not taken:
        return
    before = read_shapes(trial).get(name, Shape(1, "constant", is_shared=False))
    was = _arguments(had[next(n for n in (*taken, name, first) if n in had)], before)
    now = _arguments(among, shape)
    other = [argument for argument in {**was, **now} if was.get(argument) != now.get(argument)]
    raise ValueError(
        f"name: this trial has suggested {name!r} before, with {_told(was, other)} instead of "
        f"{_told(now, other)}; the second would get the values of the first. Give each schedule a "
        "name of its own."
    )


def _arguments(distribution: BaseDistribution, shape: Shape) -> dict[str, Any]:
    """The arguments that make a parameter of a schedule."""
    windows = shape.size + 1 - count_values(shape.form, 1)
    of = {"windows": "auto" if shape.is_shared else windows, "form": shape.form}
    if isinstance(distribution, FloatDistribution) and distribution.step is None:
        return {"low": distribution.low, "high": distribution.high, "log": distribution.log, **of}
    return {"distribution": distribution}


def _told(arguments: Mapping[str, Any], names: Sequence[str]) -> str:
    return ", ".join(f"{name}={arguments[name]!r}" for name in names if name in arguments)


def _warn_of_two(trial: BaseTrial, name: str) -> None:
    if isinstance(trial, FrozenTrial):  # it only gives its values back
        return
    suggested = _suggested.setdefault(trial, set())
    if name in suggested:
        warnings.warn(_TWICE.format(name), stacklevel=3)
    suggested.add(name)


# A retried trial has its parameters from the beginning, so they do not tell what was suggested.
_suggested: WeakKeyDictionary[BaseTrial, set[str]] = WeakKeyDictionary()
_TWICE = (
    "name: {!r} is suggested twice in one trial, so that both schedules have the same values and "
    "are learned as one; give each schedule a name of its own."
)
