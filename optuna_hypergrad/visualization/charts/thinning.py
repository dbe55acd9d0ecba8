"""Fewer of many, where no screen could show them all."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


def thinned(n: int, most: int, keep: Iterable[int] = ()) -> list[int]:
    """At most about ``most`` of the indices below ``n``, evenly, the first and last among them.

    Args:
        n: How many there are.
        most: How many are wanted, at most.
        keep: Indices that must be among them, on top.

    Example:
        >>> thinned(5, 10), thinned(100, 4, keep=[7])
        ([0, 1, 2, 3, 4], [0, 7, 33, 66, 99])
    """
    if n <= most:
        return [*range(n)]
    even = np.linspace(0, n - 1, most).round().astype(int).tolist()
    return sorted({*even, *keep})
