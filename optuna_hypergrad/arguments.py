"""Checks of arguments. A ValueError names the argument, what is expected and what was passed."""

from __future__ import annotations

import math
import reprlib
import sys
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from numbers import Integral, Real
from types import UnionType
from typing import Any, TypeVar

T = TypeVar("T")

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = 60


def check_kind(argument: str, value: Any, kind: type | UnionType, expected: str) -> None:
    """Require an instance of ``kind``; ``expected`` describes it in words."""
    if not isinstance(value, kind):
        raise ValueError(f"{argument} must be {expected}, got {short(value)}.")


def check_name(argument: str, value: Any) -> None:
    """Require a non-empty string."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"{argument} must be a name, got {short(value)}.")


def check_names(argument: str, value: Any) -> None:
    """Require a non-empty sequence of strings, or None."""
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    if value is not None and not (is_list and all(isinstance(name, str) for name in value)):
        raise ValueError(f"{argument} must be a sequence of names, or None, got {short(value)}.")
    if value is not None and not value:
        raise ValueError(f"{argument} must hold at least one name, or be None, got {value!r}.")


def check_choice(argument: str, value: Any, choices: Collection[Any]) -> None:
    """Require one of ``choices``.

    Example:
        >>> check_choice("mode", "backward", ("forward", "reverse"))
        Traceback (most recent call last):
        ValueError: mode must be one of 'forward', 'reverse', got 'backward'.
    """
    if value not in choices:
        expected = ", ".join(map(repr, choices)) or "(nothing)"
        raise ValueError(f"{argument} must be one of {expected}, got {short(value)}.")


def lookup(argument: str, name: str, known: Mapping[str, T]) -> T:
    """Return the entry ``name`` of ``known``, or raise a ValueError that lists its keys."""
    check_choice(argument, name, known)
    return known[name]


def check_callable(argument: str, value: Any) -> None:
    """Require a function or another callable."""
    if not callable(value):
        raise ValueError(f"{argument} must be callable, got {short(value)}.")


def check_can(argument: str, value: Any, expected: str, *attributes: str) -> None:
    """Require an object, not a class, that has these attributes."""
    if isinstance(value, type) or not all(hasattr(value, name) for name in attributes):
        raise ValueError(f"{argument} must be {expected}, got {short(value)}.")


def checked_count(argument: str, value: Any, least: int = 1, most: float = math.inf) -> int:
    """Return ``value`` as an int; require an integer in [least, most]."""
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
    """Return ``value`` as a float; require a real number, not a boolean.

    Args:
        argument: Its name.
        value: What was passed.
        expected: What it must do, in words.
        fits: Whether a number does so.

    Example:
        >>> checked_number("rate", 2, "lie in [0, 1]", lambda rate: 0 <= rate <= 1)
        Traceback (most recent call last):
        ValueError: rate must lie in [0, 1], got 2.
    """
    number = None
    if isinstance(value, Real) and not isinstance(value, bool):
        with suppress(OverflowError):  # of an integer beyond the largest float
            number = float(value)
    if number is None or not fits(number):
        raise ValueError(f"{argument} must {expected}, got {short(value)}.")
    return number


def check_positive(argument: str, value: Any, *, or_none: bool = False) -> None:
    """Require a positive number, which may be infinite."""
    if not (or_none and value is None):
        expected = "be positive or None" if or_none else "be positive"
        checked_number(argument, value, expected, lambda number: number > 0)


def short(value: Any) -> str:
    """Return ``repr(value)``, limited in length and depth; never fails on a huge integer."""
    if isinstance(value, int) and value.bit_length() > 256:
        return f"an integer of {value.bit_length()} bits"
    return _repr.repr(value)


@contextmanager
def optional_import(library: str, extra: str = "visualization") -> Iterator[None]:
    """Wrap imports of an optional library; an ImportError says which extra installs it.

    Example:
        >>> with optional_import("nowhere"):
        ...     import nowhere
        Traceback (most recent call last):
        ImportError: nowhere is needed: install the extra 'visualization' of optuna_hypergrad.
    """
    try:
        yield
    except ImportError as error:
        message = f"{library} is needed: install the extra '{extra}' of optuna_hypergrad."
        raise ImportError(message) from error


def renamed(module: str, name: str, new_names: Mapping[str, str]) -> Any:
    """Return what an old name of a module means now, with a FutureWarning; for ``__getattr__``.

    Args:
        module: Name of the module.
        name: The attribute that is looked up.
        new_names: New names by old ones.

    Raises:
        AttributeError: If ``name`` is not an old name.
    """
    if name not in new_names:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    message = f"{module}.{name} is now called {new_names[name]}; the next version removes"
    warnings.warn(f"{message} the old name.", FutureWarning, stacklevel=3)
    return getattr(sys.modules[module], new_names[name])
