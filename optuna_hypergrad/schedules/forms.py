"""How a schedule moves inside of a window, and which parameters that takes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, get_args

Form = Literal["constant", "linear", "cosine"]

# How far a step at fraction u of its window has moved from the window's left knot to its right.
BLEND: dict[str, Callable[[float], float]] = {
    "constant": lambda u: 0.0,
    "linear": lambda u: u,
    "cosine": lambda u: (1.0 - math.cos(math.pi * u)) / 2.0,
}


def check_form(form: str) -> None:
    """Raise a ValueError where ``form`` is not one that schedules have."""
    if form not in get_args(Form):
        raise ValueError(f"form must be one of {', '.join(get_args(Form))}, got {form!r}.")


def count_values(form: str, windows: int) -> int:
    """How many values a schedule has: one per window, or one per knot."""
    return windows if form == "constant" else windows + 1


def parameter_names(name: str, count: int) -> tuple[str, ...]:
    """Names of the trial parameters of a schedule with ``count`` values."""
    return (name,) if count == 1 else tuple(f"{name}_{i}" for i in range(count))


def blended(left: float, right: float, blend: float, log: bool) -> float:
    """The value a part ``blend`` in [0, 1] of the way from ``left`` to ``right``.

    Example:
        >>> blended(1.0, 4.0, 0.5, log=False), blended(1.0, 4.0, 0.5, log=True)
        (2.5, 2.0)
    """
    if blend == 0.0:
        return left
    return left ** (1 - blend) * right**blend if log else (1 - blend) * left + blend * right
