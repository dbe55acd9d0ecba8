"""Ticks that can be read: few of them, and labels that are short."""

from __future__ import annotations

import math

MOST = 8
FEW_DECADES = 2.5
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def log_ticks(low: float, high: float) -> dict[float, str]:
    """Positions and labels between two positive ends: decades, or 1, 2, 5 within few of them.

    Example:
        >>> log_ticks(1e-4, 2.0)
        {0.0001: '10⁻⁴', 0.001: '10⁻³', 0.01: '0.01', 0.1: '0.1', 1.0: '1'}
        >>> log_ticks(0.3, 1.5)
        {0.5: '0.5', 1.0: '1'}
        >>> log_ticks(0.21, 0.28)
        {0.22: '0.22', 0.24: '0.24', 0.26: '0.26', 0.28: '0.28'}
    """
    first, last = math.log10(low), math.log10(high)
    digits: tuple[int, ...] = (1,) if last - first > FEW_DECADES else (1, 2, 5)
    every = max(1, math.ceil((last - first) / MOST))
    decades = range(math.floor(first), math.ceil(last) + 1)
    exact = (float(f"{d}e{n}") for n in decades if n % every == 0 for d in digits)
    ticks = [value for value in exact if low * (1 - 1e-9) <= value <= high * (1 + 1e-9)]
    if len(ticks) < 2:
        ticks = _even(low, high)
    return {value: label(value) for value in ticks}


def _even(low: float, high: float) -> list[float]:
    """Round numbers at equal distances."""
    power = math.floor(math.log10((high - low) / 3))
    fitting = [d * 10.0**power for d in (1, 2, 5) if d * 10.0**power <= (high - low) / 3]
    step = fitting[-1]
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{i * step:.6g}") for i in range(first, last + 1)]


def label(value: float) -> str:
    """A number for people.

    Example:
        >>> label(0.05), label(-2e-5), label(30000)
        ('0.05', '−2·10⁻⁵', '3·10⁴')
    """
    sign, size = "−" if value < 0 else "", abs(value)
    if size == 0 or 0.01 <= size < 10_000:
        return f"{sign}{size:g}"
    power = math.floor(math.log10(size) + 1e-9)
    digits = f"{size / 10.0**power:.3g}"
    factor = "" if digits == "1" else f"{digits}·"
    return sign + factor + "10" + str(power).translate(_SUPERSCRIPTS)
