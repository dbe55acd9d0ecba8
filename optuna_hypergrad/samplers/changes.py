"""Changes of hyperparameters in a few words, for log lines and figures."""

from __future__ import annotations

import math
from typing import Any

from optuna_hypergrad.samplers.mutated import Mutated

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


def told_mutation(before: Any, after: Any, mutation: Mutated | None) -> str:
    """What became of a value at cloning: the parent's last step, and the weight of mutation.

    Args:
        before: What the parent ended with.
        after: What the clone begins with.
        mutation: What is known of it.

    Example:
        >>> told_mutation(0.0025, 0.003, Mutated("perturbed", before=0.25, after=0.3))
        '0.0025 → 0.003 (weight 1.2)'
        >>> told_mutation("a", "b", Mutated("resampled", before=math.nan, after=math.nan))
        'a → b (drawn anew)'
    """
    change = told_change(before, after)
    if mutation is not None and mutation.origin == "resampled":
        return f"{change} (drawn anew)"
    if mutation is None or math.isnan(mutation.factor):
        return change
    step = "one step, " if mutation.has_step else ""
    return f"{change} ({step}weight {short(mutation.factor)})"
