"""Selection: which members of a population are replaced by clones of which others."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def ranking(losses: Sequence[float]) -> list[int]:
    """Return indices from the lowest loss to the highest; equal losses stay in order."""
    order: list[int] = np.argsort(np.asarray(losses, dtype=float), kind="stable").tolist()
    return order


def truncated(n: int, fraction: float) -> int:
    """Return the size of the top, and of the bottom, of n members.

    Rounded up, and at most half of n, so that no member is in both.
    """
    return min(math.ceil(n * fraction), n // 2)


def top(losses: Sequence[float], fraction: float) -> list[int]:
    """Return the indices of the best members, at least one; none with an infinite loss.

    Example:
        >>> top([0.3, 0.1, 0.5, 0.2, 0.4], 0.4)
        [1, 3]
    """
    size = max(truncated(len(losses), fraction), 1)
    return [i for i in ranking(losses)[:size] if math.isfinite(losses[i])]


def bottom(losses: Sequence[float], fraction: float) -> list[int]:
    """Return the indices of the worst members, which truncation selection replaces.

    Example:
        >>> bottom([0.3, 0.1, 0.5, 0.2, 0.4], 0.4)
        [4, 2]
    """
    return ranking(losses)[len(losses) - truncated(len(losses), fraction) :]


def truncation(
    losses: Sequence[float], own: int, fraction: float, rng: np.random.Generator
) -> int | None:
    """Truncation selection: a member of the bottom is replaced by one of the top.

    Returns the index of the member to clone, drawn uniformly from the top, or None if member
    ``own`` continues. ``fraction`` is the size of the top, and of the bottom.

    Reference:
        Jaderberg et al. (2017), "Population based training of neural networks", Section 4.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> [truncation([0.3, 0.1, 0.5, 0.2, 0.4], own, 0.2, rng) for own in range(5)]
        [None, None, 1, None, None]
    """
    if own not in bottom(losses, fraction) or not any(map(math.isfinite, losses)):
        return None
    return int(rng.choice(top(losses, fraction)))


def tournament(losses: Sequence[float], own: int, rng: np.random.Generator) -> int | None:
    """Binary tournament: a member is replaced by a random other one if that is better.

    Returns the index of the member to clone, or None if member ``own`` continues.

    Reference:
        Jaderberg et al. (2017), Section 4.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> tournament([0.3, 0.1], 0, rng), tournament([0.3, 0.1], 1, rng)
        (1, None)
    """
    others = [i for i in range(len(losses)) if i != own]
    if not others:
        return None
    opponent = int(rng.choice(others))
    return opponent if losses[opponent] < losses[own] else None
