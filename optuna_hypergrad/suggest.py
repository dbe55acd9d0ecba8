"""How a trial suggests a schedule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from optuna.distributions import FloatDistribution
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
            this name. The same again is allowed, and gives the same values, as with
            ``trial.suggest_float``.

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
    if taken:
        raise ValueError(
            f"name: this trial has suggested {name!r} before, and otherwise (parameter "
            f"{taken[0]!r}: {had[taken[0]]}); the second would get the values of the first. Give "
            "each schedule a name of its own."
        )
