"""The attribute keys, all of them.

How an attribute is written and read: strict JSON, the trial's own, errors that say whose.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from numbers import Real
from typing import TYPE_CHECKING, Any

from optuna_hypergrad.arguments import check_kind
from optuna_hypergrad.reports.backoff import with_backoff
from optuna_hypergrad.reports.fields import Fields

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.storages import BaseStorage
    from optuna.trial import BaseTrial, FrozenTrial

# What the objective reports: {"trial": number, …}, so that what a retried or copied trial only
# inherited can be told from its own. System attributes, since as columns of optuna-dashboard they
# would bury the numbers below.
GRADIENT = "hg:gradient"  # "values": {name: float or mark}
# With ":" and the name of the constraint behind it; the same fields.
CONSTRAINT_GRADIENT = "hg:constraint_gradient"
REFINED = "hg:refined"  # "values": {name: float or mark}
CHECKPOINT = "hg:checkpoint"  # the fields of a Checkpoint
SCHEDULES = "hg:schedules"  # "schedules": {name: the fields of a Shape}
TANGENTS = "hg:tangents"  # "norms": {step: float or mark}

# System attributes, too, which samplers and pruners decide.
CLAIM = "hg:claim"  # the fields of a Claim
DRAWN = "hg:drawn"  # {name: internal value} that replicates are to repeat
SEGMENT = "hg:segment"  # the fields of a Segment
TEACHER = "hg:teacher"  # the fields of a Taught
SUPERFLUOUS = "hg:superfluous"  # "trial": number, of a replicate that can change nothing
REMOVED = "hg:removed"  # numbers of the trials whose checkpoints this one has removed

# Numbers for all to see: user attributes, one column each in optuna-dashboard.
GRADIENT_NORM = "hg:gradient_norm"
CHAIN, STEP, AGREEMENT, WINDOWS = "hg:chain", "hg:step", "hg:agreement", "hg:windows"
MEMBER, GENERATION, PARENT = "hg:member", "hg:generation", "hg:parent"
RESTORED = "hg:restored"  # the trial whose checkpoint was restored, where it is not the parent's

# Optuna's own: the system attribute that marks a retried trial, with the number of the failed one.
RETRIED = "failed_trial"
# … and its constraints: a list, of ``constraints_func``; or, of ``Trial.set_constraint``, a number
# each with ":" and the name behind the key.
CONSTRAINTS = "constraints"


class StoredDataError(ValueError):
    """What a storage holds is not what this package wrote there."""


@contextmanager
def reading(number: int, key: str) -> Iterator[None]:
    """Turn what goes wrong while an attribute of a trial is read into a StoredDataError."""
    try:
        yield
    except (OverflowError, RecursionError, TypeError, ValueError) as error:
        raise StoredDataError(f"trial {number}: {key} is damaged: {error}.") from error


def own_report(user_attrs: Mapping[str, Any], number: int, key: str) -> Fields | None:
    """A report that the trial made itself; one that it only inherited does not count."""
    if user_attrs.get(key) is None:
        return None
    with reading(number, key):
        fields = Fields(user_attrs[key])
        return fields if fields.whole("trial") == number else None


def read_report(trial: BaseTrial, key: str) -> Fields | None:
    """A report of more than a number, if the trial made it itself.

    It is among the system attributes, which dashboards do not show; among the user attributes of
    trials of other kinds than Optuna's own, and of older versions.
    """
    number = trial.number
    hidden = own_report(system_attrs_now(trial), number, key)
    return own_report(trial.user_attrs, number, key) if hidden is None else hidden


def own_keys(trial: FrozenTrial, prefix: str) -> list[str]:
    """The keys of a trial's reports that begin alike."""
    keys = dict.fromkeys([*trial.system_attrs, *trial.user_attrs])
    return [key for key in keys if key.startswith(prefix)]


def write_report(trial: BaseTrial, key: str, value: Mapping[str, Any]) -> None:
    """Store a report of more than a number, of a running trial."""
    from optuna.trial import Trial

    if isinstance(trial, Trial):
        storage, trial_id = trial.storage, trial._trial_id
        _set(trial, key, lambda: storage.set_trial_system_attr(trial_id, key, value))
    elif hasattr(trial, "set_report"):  # a trial that ranks share
        trial.set_report(key, value)
    else:
        set_user_attr(trial, key, value)


def system_attrs_now(trial: BaseTrial) -> Mapping[str, Any]:
    """What is decided about a trial, and what it reported; an Optuna ``Trial`` remembers only what
    there was before the decision."""
    from optuna.trial import FrozenTrial, Trial

    if isinstance(trial, FrozenTrial):
        return trial.system_attrs
    if isinstance(trial, Trial):
        storage, trial_id = trial.storage, trial._trial_id
        what = f"the attributes of trial {trial.number}"
        return with_backoff(what, lambda: storage.get_trial_system_attrs(trial_id))
    return getattr(trial, "decided", {})  # a trial that ranks share has them


def own_decision(system_attrs: Mapping[str, Any], number: int, key: str) -> Fields | None:
    """A decision about this trial. A retried trial keeps the one that it inherited from an earlier
    one; one copied to another study under another number does not."""
    if system_attrs.get(key) is None:
        return None
    with reading(number, key):
        fields = Fields(system_attrs[key])
        trial = fields.whole("trial")
        is_inherited = RETRIED in system_attrs and trial < number
        return fields if trial == number or is_inherited else None


def marked(values: Mapping[str, float]) -> dict[str, float | str]:
    """Values as strict JSON."""
    return {name: v if math.isfinite(v) else str(v) for name, v in values.items()}


def _as_float(argument: str, name: str, value: Any) -> float:
    """One number: a float, a numpy scalar, or a tensor of one element on any device."""
    shape = tuple(getattr(value, "shape", ()))
    if math.prod(shape) != 1:
        raise ValueError(f"{argument}: {name!r} must be one number, got shape {shape}.")
    number = value.item() if hasattr(value, "item") else value
    if isinstance(number, bool) or not isinstance(number, Real):
        raise ValueError(f"{argument}: {name!r} must be a number, got {value!r}.")
    return float(number)


def check_trial(trial: Any) -> None:
    """ValueError unless it is a trial of Optuna's, of whatever kind."""
    from optuna.trial import BaseTrial

    check_kind("trial", trial, BaseTrial, "an Optuna trial")


def _check_names(trial: BaseTrial, argument: str, values: Any) -> None:
    """ValueError unless ``values`` maps some of the trial's numeric parameters to something."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{argument} must map parameter names to floats, got {values!r}.")
    if not values:
        raise ValueError(f"{argument} is empty; expected at least one parameter.")
    distributions = trial.distributions  # a copy, made at each access
    for name in values:
        if name not in distributions:
            known = ", ".join(distributions) or "none so far"
            raise ValueError(f"{argument}: {name!r} is not a parameter of this trial ({known}).")
        if _is_categorical(distributions[name]):
            raise ValueError(f"{argument}: {name!r} is categorical and has no derivative.")


def _is_categorical(distribution: BaseDistribution | None) -> bool:
    from optuna.distributions import CategoricalDistribution

    return isinstance(distribution, CategoricalDistribution)


def write_decision(storage: BaseStorage, trial_id: int, key: str, value: Any) -> None:
    """Write a system attribute of a running trial."""
    with_backoff(key, lambda: storage.set_trial_system_attr(trial_id, key, value))


def write_scalar(storage: BaseStorage, trial_id: int, key: str, value: float | str) -> None:
    """Write what of a decision is to be seen: a user attribute of a running trial."""
    with_backoff(key, lambda: storage.set_trial_user_attr(trial_id, key, value))


def set_user_attr(trial: BaseTrial, key: str, value: Any) -> None:
    """Write what of a running trial is to be seen."""
    _set(trial, key, lambda: trial.set_user_attr(key, value))


def _set(trial: BaseTrial, key: str, write: Callable[[], None]) -> None:
    from optuna.exceptions import UpdateFinishedTrialError
    from optuna.trial import FrozenTrial

    message = f"trial {trial.number} has finished; report before the objective returns."
    if isinstance(trial, FrozenTrial):
        if trial.state.is_finished():
            raise UpdateFinishedTrialError(message)
        raise ValueError(f"trial {trial.number} is a FrozenTrial, which stores nothing.")
    try:
        with_backoff(f"{key} of trial {trial.number}", write)
    except UpdateFinishedTrialError as error:
        raise UpdateFinishedTrialError(message) from error


def report_values(
    trial: BaseTrial, key: str, argument: str, values: Any, what: str
) -> dict[str, float]:
    """Check and write a report of one number for each of some numeric parameters, once a trial.

    Args:
        trial: The running trial.
        key: The attribute.
        argument: The caller's name of ``values``, for errors.
        values: By parameter.
        what: What is reported, for the error if it was before.

    Returns:
        The values as floats.
    """
    _check_names(trial, argument, values)
    floats = {name: _as_float(argument, name, value) for name, value in values.items()}
    if read_report(trial, key) is not None:
        raise ValueError(f"trial {trial.number} has already reported {what}.")
    write_report(trial, key, {"trial": trial.number, "values": marked(floats)})
    return floats


def read_values(trial: FrozenTrial, key: str) -> dict[str, float] | None:
    """What ``report_values`` wrote, if the trial itself reported it."""
    stored = read_report(trial, key)
    if stored is None:
        return None
    with reading(trial.number, key):
        values = stored.marked("values")
        for name in values:
            if _is_categorical(trial.distributions.get(name)):
                raise ValueError(f"values: {name!r} is categorical")
        return values
