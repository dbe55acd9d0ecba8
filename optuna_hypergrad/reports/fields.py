"""Stored objects, read field by field: each value is of its kind and in its range, or it is named.

A storage may hold anything: what was edited by hand, damaged, or written by another program. What
these readers let through can neither fill the memory nor break the arithmetic of those who use it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from optuna_hypergrad.arguments import short

T = TypeVar("T")

LARGEST = 2**31 - 1  # databases number trials in 32 bits
# Places, generations, steps and the like: more than a study has trials, few enough to count to.
MOST = 1_000_000

# JSON has no NaN: such numbers are marked, never dropped.
MARKS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


class Fields:
    """A stored object.

    Args:
        stored: What a storage returned.

    Raises:
        ValueError: By the constructor and every method, if something is missing or is not what it
            should be; the message names the field.

    Example:
        >>> fields = Fields({"step": 3, "used": [2], "rate": {"lr": 0.5}})
        >>> fields.whole("step"), fields.trials("used"), fields.numbers("rate")
        (3, (2,), {'lr': 0.5})
        >>> fields.whole("step", most=2)
        Traceback (most recent call last):
        ValueError: step must be an integer in 0 … 2, got 3
    """

    def __init__(self, stored: Any) -> None:
        self._stored = _mapping("it", stored)

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __contains__(self, name: str) -> bool:
        return name in self._stored

    def whole(self, name: str, least: int = 0, most: float = LARGEST) -> int:
        """An integer."""
        return _whole(name, self[name], least, most)

    def perhaps(self, name: str, most: int = LARGEST) -> int | None:
        """An integer of at least 0, or None."""
        return None if self[name] is None else self.whole(name, most=most)

    def wholes(self, name: str, least: int = 0, most: int = LARGEST) -> tuple[int, ...]:
        """Integers."""
        return tuple(_whole(name, value, least, most) for value in self.items(name))

    def trials(self, name: str, most: int = LARGEST) -> tuple[int, ...]:
        """Numbers of trials, all different."""
        return _different(name, self.wholes(name, most=most))

    def number(self, name: str, least: float = -math.inf, most: float = math.inf) -> float:
        """A finite number."""
        return finite(name, self[name], least, most)

    def numbers(
        self, name: str, least: float = -math.inf, most: float = math.inf
    ) -> dict[str, float]:
        """Finite numbers by name."""
        values = self.mapping(name)
        return {key: finite(name, value, least, most, key) for key, value in values.items()}

    def marked(self, name: str) -> dict[str, float]:
        """Numbers by name, with marks for those that are not finite."""
        return {
            key: MARKS[v] if type(v) is str and v in MARKS else finite(name, v, key=key)
            for key, v in self.mapping(name).items()
        }

    def text(self, name: str) -> str:
        """A string."""
        return _text(name, self[name])

    def texts(self, name: str) -> tuple[str, ...]:
        """Strings, all different."""
        return _different(name, tuple(_text(name, value) for value in self.items(name)))

    def choice(self, name: str, choices: tuple[T, ...]) -> T:
        """One of some values."""
        if self[name] not in choices:
            expected = ", ".join(map(repr, choices))
            raise ValueError(f"{name} must be one of {expected}, got {short(self[name])}")
        return choices[choices.index(self[name])]

    def items(self, name: str) -> list[Any]:
        """A list of anything."""
        if not isinstance(self[name], list | tuple):  # tuples, where a storage keeps objects
            raise ValueError(f"{name} must be a list, got {short(self[name])}")
        return list(self[name])

    def mapping(self, name: str) -> dict[str, Any]:
        """Anything by name."""
        return _mapping(name, self[name])

    def __getitem__(self, name: str) -> Any:
        if name not in self._stored:
            raise ValueError(f"{name} is missing")
        return self._stored[name]


def finite(
    name: str,
    value: Any,
    least: float = -math.inf,
    most: float = math.inf,
    key: str | None = None,
) -> float:
    """A finite number, as a float; ``key`` is that of an entry of what has the name."""
    if type(value) is int and abs(value) < 2**1023:  # a larger one overflows
        value = float(value)
    if not isinstance(value, float) or not math.isfinite(value) or not least <= value <= most:
        entry = name if key is None else f"{name}[{short(key)}]"
        within = "" if math.isinf(least) else f" from {least:g} to {most:g}"
        raise ValueError(f"{entry} must be a finite number{within}, got {short(value)}")
    return float(value)


def _whole(name: str, value: Any, least: int, most: float) -> int:
    if type(value) is not int or not least <= value <= most:  # True is none
        within = f"of at least {least}" if math.isinf(most) else f"in {least} … {most}"
        raise ValueError(f"{name} must be an integer {within}, got {short(value)}")
    return value


def _text(name: str, value: Any) -> str:
    if type(value) is not str:
        raise ValueError(f"{name} must be a string, got {short(value)}")
    return value


def _mapping(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(type(key) is str for key in value):
        raise ValueError(f"{name} must be an object with names, got {short(value)}")
    return dict(value)


def _different(name: str, values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(values)) < len(values):
        raise ValueError(f"{name} must be all different, got {short(values)}")
    return values
