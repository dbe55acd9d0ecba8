"""Log lines, and values and their changes in a few words, for log lines and figures.

Lines go through Optuna's logger, so that ``optuna.logging.set_verbosity`` and its relatives rule.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from optuna_hypergrad.logger import logger

DIGITS = 3  # significant ones, and more only where two values would look the same
MOST_DIGITS = 12  # two floats that agree in so many differ by rounding alone
LONGEST = 1e15  # from here on numbers are written with an exponent
MOST = 8  # changes in one line
SIGNS = {-1: "−", 0: "0", 1: "+"}


def log_line(line: Callable[[], str]) -> None:
    """Log a line at INFO; it is composed only if that level is enabled."""
    if logger.isEnabledFor(logging.INFO):
        logger.info(line())


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


def describe_change(before: Any, after: Any) -> str:
    """Both, with as many digits as log_line them apart.

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
    """A factor, with as many digits as log_line it from 1; "1" only where it differs by rounding.

    Example:
        >>> describe_factor(1.25), describe_factor(1.0001234)
        ('1.25', '1.0001')
    """
    return short(factor, _n_digits(1.0, factor))


def describe_unreported(number: int, names: Sequence[str], fate: str) -> str:
    """Which parameters a trial reported no hypergradient of, and what becomes of them."""
    are = "is" if len(names) == 1 else "are"
    return (
        f"Trial {number} reported no hypergradient of {listed([*names])}, which {are} {fate}; "
        "give report_hypergradient all of result.gradient if it is to be learned."
    )


def listed(changes: list[str], nothing: str = "nothing changes") -> str:
    rest = len(changes) - MOST
    more = [f"and {rest} more"] if rest > 0 else []
    return ", ".join([*changes[:MOST], *more]) or nothing


def _n_digits(before: Any, after: Any) -> int:
    """How many digits log_line two values apart."""
    digits = range(DIGITS, MOST_DIGITS)
    return next((d for d in digits if short(before, d) != short(after, d)), MOST_DIGITS)
