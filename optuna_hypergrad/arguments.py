"""Checks of what users pass: a ValueError names the argument, what is expected and what came.

What to say where an optional library is not installed.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Integral, Real
from types import UnionType
from typing import Any, TypeVar

T = TypeVar("T")

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = 60


def check_kind(argument: str, value: Any, kind: type | UnionType, expected: str) -> None:
    """``value`` must be an instance; ``expected`` says of what, for people."""
    if not isinstance(value, kind):
        raise ValueError(f"{argument} must be {expected}, got {short(value)}.")


def check_name(argument: str, value: Any) -> None:
    """``value`` must be a string that is not empty."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"{argument} must be a name, got {short(value)}.")


def check_names(argument: str, value: Any) -> None:
    """``value`` must be a sequence of at least one string, or None."""
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    if value is not None and not (is_list and all(isinstance(name, str) for name in value)):
        raise ValueError(f"{argument} must be a sequence of names, or None, got {short(value)}.")
    if value is not None and not value:
        raise ValueError(f"{argument} must hold at least one name, or be None, got {value!r}.")


def lookup(argument: str, name: str, known: Mapping[str, T]) -> T:
    """What has this name.

    Example:
        >>> named("names", "lr", {"x": 1, "y": 2})
        Traceback (most recent call last):
        ValueError: names must be of what there is (x, y), got 'lr'.
    """
    if name not in known:
        there = ", ".join(known) or "nothing"
        raise ValueError(f"{argument} must be of what there is ({there}), got {short(name)}.")
    return known[name]


def check_callable(argument: str, value: Any) -> None:
    """``value`` must be a function or the like."""
    if not callable(value):
        raise ValueError(f"{argument} must be callable, got {short(value)}.")


def check_can(argument: str, value: Any, expected: str, *methods: str) -> None:
    """``value`` must have some methods, whatever its class."""
    if isinstance(value, type) or not all(hasattr(value, method) for method in methods):
        raise ValueError(f"{argument} must be {expected}, got {short(value)}.")


def checked_count(argument: str, value: Any, least: int = 1, most: float = math.inf) -> int:
    """``value`` as an int in [least, most], or a ValueError that names the argument."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        expected = "a positive integer" if least == 1 else f"an integer of at least {least}"
        raise ValueError(f"{argument} must be {expected}, got {short(value)}.")
    if int(value) > most:
        raise ValueError(f"{argument} must be at most {most}, got {short(value)}.")
    return int(value)


def checked_number(
    argument: str,
    value: Any,
    expected: str = "be a finite number",
    fits: Callable[[float], bool] = math.isfinite,
) -> float:
    """``value`` as a float.

    Args:
        argument: Its name.
        value: A number of any kind but a boolean.
        expected: What it must do, for people.
        fits: Whether a number does so; NaN should not.

    Example:
        >>> checked_number("rate", 2, "lie in [0, 1]", lambda rate: 0 <= rate <= 1)
        Traceback (most recent call last):
        ValueError: rate must lie in [0, 1], got 2.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not fits(_as_float(value)):
        raise ValueError(f"{argument} must {expected}, got {short(value)}.")
    return float(value)


def check_positive(argument: str, value: Any, *, or_none: bool = False) -> None:
    """``value`` must be a positive number, perhaps infinite."""
    if not (or_none and value is None):
        expected = "be positive or None" if or_none else "be positive"
        checked_number(argument, value, expected, lambda number: number > 0)


def _as_float(value: Real) -> float:
    """NaN for an integer beyond all floats, which fits nothing."""
    try:
        return float(value)
    except OverflowError:
        return math.nan


def short(value: Any) -> str:
    """``repr`` without its length, its depth, and Python's limit on the digits of an int."""
    if isinstance(value, int) and value.bit_length() > 256:
        return f"an integer of {value.bit_length()} bits"
    return _repr.repr(value)


@contextmanager
def needing(library: str, extra: str = "visualization") -> Iterator[None]:
    """Imports of an optional library; an ImportError says which extra installs it.

    Example:
        >>> with needing("nowhere"):
        ...     import nowhere
        Traceback (most recent call last):
        ImportError: nowhere is needed: install the extra 'visualization' of optuna_hypergrad.
    """
    try:
        yield
    except ImportError as error:
        message = f"{library} is needed: install the extra '{extra}' of optuna_hypergrad."
        raise ImportError(message) from error
