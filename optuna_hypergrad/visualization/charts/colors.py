"""Colours that a colour-blind person can tell apart, and shades that also do in grey."""

from __future__ import annotations

from collections.abc import Sequence

# Okabe and Ito (2008), "Color Universal Design", without the yellow that vanishes on white.
BLUE, ORANGE, GREEN, PINK = "#0072B2", "#E69F00", "#009E73", "#CC79A7"
RED, SKY, BLACK, GREY = "#D55E00", "#56B4E9", "#000000", "#999999"
CYCLE = (BLUE, ORANGE, GREEN, PINK, SKY, BLACK)  # red marks what is to be seen first

# Of viridis, from dark to light, without its last tenth, which vanishes on white.
_ANCHORS = ("#440154", "#482878", "#3E4A89", "#31688E", "#26828E", "#1F9E89", "#35B779", "#6DCD59", "#B4DE2C")  # fmt: skip # noqa: E501

# From below zero over white to above.
_SIDES = (BLUE, "#FFFFFF", RED)


def cycled(i: int) -> str:
    """The colour of the i-th of a few kinds."""
    return CYCLE[i % len(CYCLE)]


def shade(fraction: float) -> str:
    """A colour that tells how far along something is, from 0 (dark) to 1 (light).

    Example:
        >>> shade(0.0), shade(1.0)
        ('#440154', '#b4de2c')
    """
    return _between(_ANCHORS, fraction)


def diverging(fraction: float) -> str:
    """A colour that tells which side of the middle something is on, and how far.

    Example:
        >>> diverging(0.0), diverging(0.5), diverging(1.0)
        ('#0072b2', '#ffffff', '#d55e00')
    """
    return _between(_SIDES, fraction)


def shades(values: Sequence[float], low: float, high: float) -> list[str]:
    """The colour of each value on a ``Scale`` from ``low`` to ``high``."""
    width = high - low
    return [shade((value - low) / width if width else 1.0) for value in values]


def _between(anchors: Sequence[str], fraction: float) -> str:
    place = min(max(fraction, 0.0), 1.0) * (len(anchors) - 1)
    i = min(int(place), len(anchors) - 2)
    left, right = (_channels(anchor) for anchor in anchors[i : i + 2])
    mixed = (round(a + (place - i) * (b - a)) for a, b in zip(left, right, strict=True))
    return "#" + "".join(f"{channel:02x}" for channel in mixed)


def _channels(color: str) -> tuple[int, ...]:
    return tuple(int(color[i : i + 2], 16) for i in (1, 3, 5))
