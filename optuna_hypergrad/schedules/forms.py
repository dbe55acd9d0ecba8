"""Forms of a schedule: how it moves inside a window, and the derivatives of that."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Form = Literal["constant", "linear", "cosine"]


def values_at(step: Integers, steps: int, values: Sequence[float], form: Form, log: bool) -> Floats:
    """Values of a schedule at some steps of a run of ``steps`` steps, shape of ``step``."""
    left, right, weight = _knots(step, steps, len(values), form)
    knots = np.array(values)
    if not log:
        moving = (1 - weight) * knots[left] + weight * knots[right]
        return np.where(weight == 0.0, knots[left], moving)
    # Python's power: NumPy's may differ in the last bit between processors.
    triples = zip(knots[left].tolist(), knots[right].tolist(), weight.tolist(), strict=True)
    return np.array([interpolate(a, b, u, log=True) for a, b, u in triples])


def gradients_at(
    step: Integers, steps: int, values: Sequence[float], form: Form, log: bool
) -> Floats:
    """Derivative of ``values_at`` with respect to each value, shape (len(step), len(values))."""
    left, right, weight = _knots(step, steps, len(values), form)
    knots, row = np.array(values), np.arange(len(step))
    at = values_at(step, steps, values, form, log) if log else None
    gradients = np.zeros((len(step), len(values)))
    for knot, share in ((left, 1.0 - weight), (right, weight)):
        gradients[row, knot] += share if at is None else share * (at / knots[knot])
    return gradients


def interpolate(left: float, right: float, weight: float, log: bool) -> float:
    """Value between ``left`` and ``right``; ``weight`` in [0, 1] is that of ``right``.

    Example:
        >>> interpolate(1.0, 4.0, 0.5, log=False), interpolate(1.0, 4.0, 0.5, log=True)
        (2.5, 2.0)
    """
    if weight == 0.0:
        return left
    return left ** (1 - weight) * right**weight if log else (1 - weight) * left + weight * right


def _knots(step: Integers, steps: int, count: int, form: Form) -> tuple[Integers, Integers, Floats]:
    """Indices of the knots on both sides of each step, and the weight of the right one."""
    windows = count if form == "constant" else count - 1
    left = windows * step // steps
    right = np.minimum(left + 1, count - 1)
    weight = windows * step / steps - left  # position in the window, in [0, 1)
    if form == "constant":
        weight = np.zeros_like(weight)
    elif form == "cosine":
        # math.cos: NumPy's may differ in the last bit between processors.
        weight = np.array([(1.0 - math.cos(math.pi * u)) / 2.0 for u in weight.tolist()])
    return left, right, weight
