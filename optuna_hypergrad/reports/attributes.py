"""Attributes of trials: their keys, and how each is written, read and checked.

Attributes are strict JSON: floats, integers, strings, and lists and dicts of them. JSON has no NaN,
so numbers that are not finite are stored as ``"nan"``, ``"inf"`` and ``"-inf"``.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import BaseTrial, FrozenTrial, Trial

from optuna_hypergrad.arguments import short
from optuna_hypergrad.logger import logger

T = TypeVar("T")

# System attributes that the objective reports: {"trial": number, …}, where the number tells a
# trial's own report from one that a retried or copied trial took over. As user attributes they
# would fill the columns of optuna-dashboard.
GRADIENT = "hg:gradient"  # "values": {name: float or mark}
CONSTRAINT_GRADIENT = "hg:constraint_gradient"  # the same; the key ends in ":" and a constraint
REFINED = "hg:refined"  # "values": {name: float or mark}
ARRAY = "hg:array"  # the key ends in ":" and a name; "values": base64, and see reports/arrays.py
ARRAY_GRADIENT = "hg:array_gradient"  # the same
CHECKPOINT = "hg:checkpoint"  # the fields of a Checkpoint
SCHEDULES = "hg:schedules"  # "schedules": {name: the fields of a Shape}
TANGENTS = "hg:tangents"  # "norms": {step: float or mark}
GROWTH_TO_END = "hg:growth_to_end"  # a StoredGrowth, "to_end": {step: float or mark}

# System attributes that samplers and pruners write.
CLAIM = "hg:claim"  # the fields of a Claim
PROPOSAL = "hg:proposal"  # the fields of a Proposal
DRAWN = "hg:drawn"  # {name: internal value} for replicates to repeat
SEGMENT = "hg:segment"  # the fields of a Segment
TEACHER = "hg:teacher"  # the fields of a Taught
SUPERFLUOUS = "hg:superfluous"  # "trial": number, of a replicate that cannot change its step
REMOVED = "hg:removed"  # numbers of the trials whose checkpoints this one has removed

# User attributes: one number each, a column of optuna-dashboard.
GRADIENT_NORM = "hg:gradient_norm"
GROWTH = "hg:growth"  # log10 of the growth of derivatives over the run
CHAIN, STEP, AGREEMENT, WINDOWS = "hg:chain", "hg:step", "hg:agreement", "hg:windows"
MEMBER, GENERATION, PARENT = "hg:member", "hg:generation", "hg:parent"
RESTORED = "hg:restored"  # the trial whose checkpoint was restored, if not the parent's

# Optuna's own system attributes.
RETRIED = "failed_trial"  # of a retried trial: the number of the failed one
CONSTRAINTS = "constraints"  # a list, of ``constraints_func``
CONSTRAINT_PREFIX = "constraints:"  # and a name: one number, of ``Trial.set_constraint``

DIGITS = 6  # significant ones, of what is only displayed
MOST = 1_000_000  # chains, replicates of a step, members: samplers count them one by one
MARKS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def rounded(number: float) -> float:
    """A number to the digits that are displayed."""
    return float(f"{number:.{DIGITS}g}")


class StoredDataError(ValueError):
    """A storage holds something that this package did not write."""


class Fields:
    """A stored object whose values are checked as they are read.

    Args:
        stored: What a storage returned.

    Raises:
        ValueError: By the constructor and every method, if a field is missing or has another type
            or value than expected; the message names the field.

    Example:
        >>> fields = Fields({"step": 3, "used": [2], "rate": {"lr": 0.5}})
        >>> fields.int_("step"), fields.trials("used"), fields.numbers("rate")
        (3, (2,), {'lr': 0.5})
        >>> fields.int_("step", most=2)
        Traceback (most recent call last):
        ValueError: step must be an integer of at most 2, got 3
    """

    def __init__(self, stored: Any) -> None:
        self._stored = _mapping("it", stored)

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __contains__(self, name: str) -> bool:
        return name in self._stored

    def __getitem__(self, name: str) -> Any:
        if name not in self._stored:
            raise ValueError(f"{name} is missing")
        return self._stored[name]

    def get(self, name: str, default: Any) -> Any:
        """Anything, or a default if it is missing."""
        return self._stored.get(name, default)

    def int_(self, name: str, least: int = 0, most: float = math.inf) -> int:
        """An integer in [least, most]."""
        value = self._stored.get(name)
        if type(value) is not int or not least <= value <= most:  # True is no integer
            bound = f"most {most}" if type(value) is int and value > most else f"least {least}"
            raise ValueError(f"{name} must be an integer of at {bound}, got {short(value)}")
        return value

    def optional_int(self, name: str, most: float = math.inf) -> int | None:
        """An integer in [0, most], or None."""
        return None if self[name] is None else self.int_(name, most=most)

    def ints(self, name: str, least: int = 0) -> tuple[int, ...]:
        """Integers of at least ``least``."""
        values = self.items(name)
        for value in values:
            if type(value) is not int or value < least:
                raise ValueError(
                    f"{name} must hold integers of at least {least}, got {short(value)}"
                )
        return tuple(values)

    def trials(self, name: str) -> tuple[int, ...]:
        """Numbers of different trials."""
        return _different(name, self.ints(name))

    def number(self, name: str, least: float = -math.inf, most: float = math.inf) -> float:
        """A finite number in [least, most]."""
        return finite(name, self[name], least, most)

    def numbers(
        self, name: str, least: float = -math.inf, most: float = math.inf
    ) -> dict[str, float]:
        """Finite numbers by name, each in [least, most]."""
        return {
            key: value
            if type(value) is float and least <= value <= most and math.isfinite(value)
            else finite(f"{name}[{short(key)}]", value, least, most)
            for key, value in self.mapping(name).items()
        }

    def marked(self, name: str) -> dict[str, float]:
        """Numbers by name, with marks for those that are not finite."""
        return {
            key: value
            if type(value) is float and math.isfinite(value)
            else MARKS[value]
            if type(value) is str and value in MARKS
            else finite(f"{name}[{short(key)}]", value)
            for key, value in self.mapping(name).items()
        }

    def text(self, name: str) -> str:
        """A string."""
        return _text(name, self[name])

    def texts(self, name: str) -> tuple[str, ...]:
        """Different strings."""
        return _different(name, tuple(_text(name, value) for value in self.items(name)))

    def choice(self, name: str, choices: tuple[T, ...]) -> T:
        """One of some values."""
        if self[name] not in choices:
            expected = ", ".join(map(repr, choices))
            raise ValueError(f"{name} must be one of {expected}, got {short(self[name])}")
        return choices[choices.index(self[name])]

    def items(self, name: str) -> list[Any]:
        """A list of anything."""
        if not isinstance(self[name], list | tuple):  # an in-memory storage returns tuples
            raise ValueError(f"{name} must be a list, got {short(self[name])}")
        return list(self[name])

    def mapping(self, name: str) -> dict[str, Any]:
        """Anything by name."""
        return _mapping(name, self._stored.get(name))


def finite(name: str, value: Any, least: float = -math.inf, most: float = math.inf) -> float:
    """A finite number in [least, most], as a float."""
    number = float(value) if type(value) in (int, float) else math.nan
    if not math.isfinite(number) or not least <= number <= most:
        within = "" if math.isinf(least) else f" from {least:g} to {most:g}"
        raise ValueError(f"{name} must be a finite number{within}, got {short(value)}")
    return number


def marked(values: Mapping[str, float]) -> dict[str, float | str]:
    """Values as strict JSON."""
    return {name: v if math.isfinite(v) else str(v) for name, v in values.items()}


def _mapping(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(type(key) is str for key in value):
        raise ValueError(f"{name} must be an object with names, got {short(value)}")
    return dict(value)


def _text(name: str, value: Any) -> str:
    if type(value) is not str:
        raise ValueError(f"{name} must be a string, got {short(value)}")
    return value


def _different(name: str, values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(values)) < len(values):
        raise ValueError(f"{name} must be all different, got {short(values)}")
    return values


@contextmanager
def reading(number: int, key: str) -> Iterator[None]:
    """Raise a StoredDataError that names the trial and the key for what fails in parsing."""
    try:
        yield
    except (OverflowError, RecursionError, TypeError, ValueError) as error:
        raise StoredDataError(f"trial {number}: {key} is damaged: {error}.") from error


def read_report(trial: BaseTrial, key: str, parse: Callable[[Fields], T]) -> T | None:
    """A report that the trial made itself, or None.

    Reports are system attributes; older versions, and trials of other kinds than Optuna's
    ``Trial``, store them as user attributes.
    """
    for attributes in (current_system_attrs(trial), trial.user_attrs):
        if attributes.get(key) is not None:
            with reading(trial.number, key):
                fields = Fields(attributes[key])
                if fields.int_("trial") == trial.number:
                    return parse(fields)
    return None


def read_decision(
    system_attrs: Mapping[str, Any], number: int, key: str, parse: Callable[[Fields], T]
) -> T | None:
    """A sampler's decision about a trial, or None.

    A retried trial keeps the decision about the failed one; a trial that was copied to another
    study under another number keeps none.
    """
    if system_attrs.get(key) is None:
        return None
    with reading(number, key):
        fields = Fields(system_attrs[key])
        trial = fields.int_("trial")
        is_retry = RETRIED in system_attrs and trial < number
        return parse(fields) if trial == number or is_retry else None


def current_system_attrs(trial: BaseTrial) -> Mapping[str, Any]:
    """The system attributes of a trial now; a ``Trial`` remembers those from before its start."""
    if isinstance(trial, FrozenTrial):
        return trial.system_attrs
    if isinstance(trial, Trial):
        read = trial.storage.get_trial_system_attrs
        return with_backoff(f"the attributes of trial {trial.number}", read, trial._trial_id)
    is_shared = hasattr(trial, "set_report")  # by ranks
    return getattr(trial, "system_attrs", {}) if is_shared else {}


def write_report(trial: BaseTrial, key: str, value: Mapping[str, Any]) -> None:
    """Write a report of a running trial."""
    if isinstance(trial, Trial):
        _write(trial, key, trial.storage.set_trial_system_attr, trial._trial_id, key, value)
    elif hasattr(trial, "set_report"):  # a trial that ranks share
        trial.set_report(key, value)
    else:
        set_user_attr(trial, key, value)


def set_user_attr(trial: BaseTrial, key: str, value: Any) -> None:
    """Write a user attribute of a running trial."""
    _write(trial, key, trial.set_user_attr, key, value)


def _write(trial: BaseTrial, key: str, write: Callable[..., None], *arguments: Any) -> None:
    message = f"trial {trial.number} has finished; report before the objective returns."
    if isinstance(trial, FrozenTrial):
        if trial.state.is_finished():
            raise UpdateFinishedTrialError(message)
        raise ValueError(f"trial {trial.number} is a FrozenTrial, which stores nothing.")
    try:
        with_backoff(f"{key} of trial {trial.number}", write, *arguments)
    except UpdateFinishedTrialError as error:
        raise UpdateFinishedTrialError(message) from error


def write_decision(storage: BaseStorage, trial_id: int, key: str, value: Any) -> None:
    """Write a system attribute of a running trial."""
    with_backoff(key, storage.set_trial_system_attr, trial_id, key, value)


def write_scalar(storage: BaseStorage, trial_id: int, key: str, value: float | str) -> None:
    """Write a user attribute of a running trial, for people to see."""
    with_backoff(key, storage.set_trial_user_attr, trial_id, key, value)


DELAYS = (0.1, 0.2, 0.4, 0.8, 1.6)  # seconds, on average; then the error is raised

# By name, since the clients of storages may not be installed.
_TRANSIENT = {
    "builtins.OSError",  # connections, timeouts, file locks
    "optuna.exceptions.StorageInternalError",  # whatever SQLAlchemy raises, deadlocks included
    "redis.exceptions.ConnectionError",
    "redis.exceptions.TimeoutError",
    "grpc.RpcError",
}
# An objective's random numbers must not depend on faults, nor forked workers pause in step.
_random = random.SystemRandom()


def with_backoff(what: str, attempt: Callable[..., T], *arguments: Any) -> T:
    """Call ``attempt(*arguments)``, and again after a pause while a storage is out of reach.

    Optuna writes each attribute in a transaction of its own, so a write may be repeated. A decision
    that could not be stored would leave its trial running forever, since Optuna does not fail a
    trial whose ``before_trial`` raises.

    The pauses are random, from half to one and a half times ``DELAYS``, so that workers that
    collided do not meet again. Each is logged without the error's text, in which drivers may quote
    the URL that they connected to.

    Args:
        what: What is read or written, for the log.
        attempt: Reads or writes; may be called several times.
        arguments: Of ``attempt``.

    Raises:
        Exception: What ``attempt`` raises, at once if it would raise it again.

    Example:
        >>> with_backoff("an attribute", int, "3")
        3
    """
    for delay in DELAYS:
        try:
            return attempt(*arguments)
        except Exception as error:
            kinds = {f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__}
            if not kinds & _TRANSIENT:
                raise
            pause = delay * _random.uniform(0.5, 1.5)
            logger.warning(f"{what}: {type(error).__name__}; retrying in {pause:.1f} s.")
        time.sleep(pause)
    return attempt(*arguments)
