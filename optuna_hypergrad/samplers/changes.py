"""Changes of hyperparameters in a few words, for log lines and figures."""

from __future__ import annotations

from typing import Any

DIGITS = 3  # significant ones, and more only where two values would look the same
MOST_DIGITS = 17  # tell any two floats apart


def short(value: Any, digits: int = DIGITS) -> str:
    """A value of any hyperparameter."""
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)


def told_change(before: Any, after: Any) -> str:
    """Both, with as many digits as tell them apart.

    Example:
        >>> told_change(0.1, 0.25), told_change(1000.0, 999.9), told_change("sgd", "adam")
        ('0.1 → 0.25', '1000 → 999.9', 'sgd → adam')
    """
    for digits in range(DIGITS, MOST_DIGITS):
        if short(before, digits) != short(after, digits):
            break
    return f"{short(before, digits)} → {short(after, digits)}"


def told_mutation(before: Any, after: Any, *, is_resampled: bool) -> str:
    """What mutation made of a value: the factor, where it is one of the value itself.

    Args:
        before: What the parent ended with.
        after: What the clone begins with.
        is_resampled: Whether that was drawn anew.

    Example:
        >>> told_mutation(0.0025, 0.003, is_resampled=False)
        '0.0025 × 1.2'
        >>> told_mutation("a", "b", is_resampled=True)
        'a → b (drawn anew)'
    """
    if is_resampled:
        return f"{told_change(before, after)} (drawn anew)"
    are_floats = isinstance(before, float) and isinstance(after, float)
    if are_floats and before * after > 0:
        return f"{short(before)} × {short(after / before)}"
    return told_change(before, after)
