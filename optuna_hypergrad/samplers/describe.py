"""Values and their changes in a few words, for log lines and figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

DIGITS = 3  # significant ones; more only where two values would look the same
MOST_DIGITS = 12  # two floats that agree in as many differ only by rounding
LONGEST = 1e15  # larger numbers are written with an exponent
MOST = 8  # changes in one line
SIGNS = {-1: "−", 0: "0", 1: "+"}


def short(value: Any, digits: int = DIGITS) -> str:
    """A hyperparameter's value as people write it.

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
    """Whether two values are written differently with ``MOST_DIGITS`` digits."""
    return short(before, MOST_DIGITS) != short(after, MOST_DIGITS)


def describe_change(before: Any, after: Any) -> str:
    """Two values, with as many digits as tell them apart.

    Example:
        >>> describe_change(5e5, 1e6)
        '500000 → 1000000'
        >>> describe_change(0.1, 0.25), describe_change(1000.0, 999.9)
        ('0.1 → 0.25', '1000 → 999.9')
        >>> describe_change("sgd", "adam")
        'sgd → adam'
    """
    digits = _n_digits(before, after)
    return f"{short(before, digits)} → {short(after, digits)}"


def describe_factor(factor: float) -> str:
    """A factor, with as many digits as tell it from 1; "1" where it differs only by rounding.

    Example:
        >>> describe_factor(1.25), describe_factor(1.0001234)
        ('1.25', '1.0001')
    """
    return short(factor, _n_digits(1.0, factor))


def describe_unreported(number: int, names: Sequence[str], consequence: str) -> str:
    """Which parameters a trial reported no hypergradient of, and what becomes of them."""
    are = "is" if len(names) == 1 else "are"
    return (
        f"Trial {number} reported no hypergradient of {listed([*names])}, which {are} "
        f"{consequence}; to learn it, add it to the gradient given to report_hypergradient."
    )


def listed(changes: list[str], nothing: str = "nothing changes") -> str:
    """Some texts as a list in words; the last ones only by their number."""
    rest = len(changes) - MOST
    more = [f"and {rest} more"] if rest > 0 else []
    return ", ".join([*changes[:MOST], *more]) or nothing


def _n_digits(before: Any, after: Any) -> int:
    """How many digits tell two values apart."""
    digits = range(DIGITS, MOST_DIGITS)
    return next((d for d in digits if short(before, d) != short(after, d)), MOST_DIGITS)
