"""Colours that colour-blind readers can tell apart, and scales that also work in greyscale."""

from __future__ import annotations

from collections.abc import Sequence

# Okabe and Ito (2008), "Color Universal Design", without the yellow that vanishes on white.
BLUE, ORANGE, GREEN, PINK = "#0072B2", "#E69F00", "#009E73", "#CC79A7"
RED, SKY, BLACK, GREY = "#D55E00", "#56B4E9", "#000000", "#999999"
CYCLE = (BLUE, ORANGE, GREEN, PINK, SKY, BLACK)  # without red, which marks the best and the failed

# Viridis from dark to light, without its last tenth, which vanishes on white.
_SEQUENTIAL = ("#440154", "#482878", "#3E4A89", "#31688E", "#26828E", "#1F9E89", "#35B779", "#6DCD59", "#B4DE2C")  # fmt: skip # noqa: E501
_DIVERGING = (BLUE, "#FFFFFF", RED)  # negative, zero, positive


def cycle(i: int) -> str:
    """The colour of the ``i``-th category."""
    return CYCLE[i % len(CYCLE)]


def sequential(fraction: float) -> str:
    """A colour of the sequential scale, from 0 (dark) to 1 (light).

    Example:
        >>> sequential(0.0), sequential(1.0)
        ('#440154', '#b4de2c')
    """
    return _interpolate(_SEQUENTIAL, fraction)


def diverging(fraction: float) -> str:
    """A colour of the diverging scale, which is white at 1/2.

    Example:
        >>> diverging(0.0), diverging(0.5), diverging(1.0)
        ('#0072b2', '#ffffff', '#d55e00')
    """
    return _interpolate(_DIVERGING, fraction)


def _interpolate(anchors: Sequence[str], fraction: float) -> str:
    place = min(max(fraction, 0.0), 1.0) * (len(anchors) - 1)
    i = min(int(place), len(anchors) - 2)
    left, right = (
        [int(anchor[k : k + 2], 16) for k in (1, 3, 5)]  # red, green, blue
        for anchor in anchors[i : i + 2]
    )
    mixed = (round(a + (place - i) * (b - a)) for a, b in zip(left, right, strict=True))
    return "#" + "".join(f"{channel:02x}" for channel in mixed)
