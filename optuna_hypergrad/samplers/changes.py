"""Changes of hyperparameters in a few words, for log lines and figures."""

from __future__ import annotations

import math
from typing import Any

from optuna_hypergrad.samplers.mutated import Mutated

DIGITS = 3  # significant ones, and more only where two values would look the same
MOST_DIGITS = 12  # two floats that agree in so many differ by rounding alone
LONGEST = 1e15  # from here on numbers are written with an exponent


def short(value: Any, digits: int = DIGITS) -> str:
    """A value of any hyperparameter, as people write it.

    Example:
        >>> short(0.1 + 0.2), short(2000.0), short(0.9999999999999999), short(1e-5), short("sgd")
        ('0.3', '2000', '1', '1e-05', 'sgd')
        >>> short(1234567.0)
        '1230000'
    """
    if not isinstance(value, float):
        return str(value)
    text = f"{value:.{digits}g}"
    return f"{float(text):.0f}" if "e+" in text and abs(value) < LONGEST else text


def differ(before: Any, after: Any) -> bool:
    """Whether two values are written differently with all digits that people may want."""
    return short(before, MOST_DIGITS) != short(after, MOST_DIGITS)


def told_change(before: Any, after: Any) -> str:
    """Both, with as many digits as tell them apart.

    Example:
        >>> told_change(5e5, 1e6)
        '500000 → 1000000'
        >>> told_change(0.1, 0.25), told_change(1000.0, 999.9), told_change("sgd", "adam")
        ('0.1 → 0.25', '1000 → 999.9', 'sgd → adam')
    """
    digits = _telling(before, after)
    return f"{short(before, digits)} → {short(after, digits)}"


def told_factor(factor: float) -> str:
    """A factor, with as many digits as tell it from 1; "1" only where it differs by rounding.

    Example:
        >>> told_factor(1.25), told_factor(1.0001234)
        ('1.25', '1.0001')
    """
    return short(factor, _telling(1.0, factor))


def told_mutation(before: Any, after: Any, mutation: Mutated | None) -> str:
    """What became of a value at cloning: steps along hypergradients, and the weight of mutation.

    A weight of 1 is not told.

    Args:
        before: What the parent ended with.
        after: What the clone begins with.
        mutation: What is known of it.

    Example:
        >>> told_mutation(0.0025, 0.003, Mutated("perturbed", before=0.25, after=0.3))
        '0.0025 → 0.003 (weight 1.2)'
        >>> told_mutation(0.2, 0.4, Mutated("gradient", before=0.3, after=0.4, has_step=True))
        '0.2 → 0.4 (two steps)'
        >>> told_mutation("a", "b", Mutated("resampled", before=math.nan, after=math.nan))
        'a → b (drawn anew)'
    """
    change = told_change(before, after)
    if mutation is not None and mutation.origin == "resampled":
        return f"{change} (drawn anew)"
    parts = [] if mutation is None else [_told_steps(mutation), _told_weight(mutation)]
    what = ", ".join(part for part in parts if part)
    return f"{change} ({what})" if what else change


def _told_steps(mutation: Mutated) -> str:
    """The parent's own step to what it handed on, and that of mutation."""
    n_steps = mutation.has_step + (mutation.origin == "gradient")
    return ("", "one step", "two steps")[n_steps]


def _told_weight(mutation: Mutated) -> str:
    if mutation.origin == "gradient" or math.isnan(mutation.factor):
        return ""
    factor = told_factor(mutation.factor)
    return "" if factor == "1" else f"weight {factor}"


def _telling(before: Any, after: Any) -> int:
    """How many digits tell two values apart."""
    digits = range(DIGITS, MOST_DIGITS)
    return next((d for d in digits if short(before, d) != short(after, d)), MOST_DIGITS)
