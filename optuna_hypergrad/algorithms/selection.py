"""Selection: which students are replaced by clones of which others."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def ranking(losses: Sequence[float]) -> list[int]:
    """Indices from the lowest loss to the highest; equal losses in the order they came."""
    return [int(i) for i in np.argsort(np.asarray(losses, dtype=float), kind="stable")]


def ends(n: int, fraction: float) -> int:
    """How many of n students are at each end of truncation selection.

    Rounded up, and at most half of them, so that no student is at both ends.
    """
    return min(math.ceil(n * fraction), n // 2)


def best(losses: Sequence[float], fraction: float) -> list[int]:
    """Indices of the best students, one at least; none with an infinite loss.

    Example:
        >>> best([0.3, 0.1, 0.5, 0.2, 0.4], 0.4)
        [1, 3]
    """
    cut = max(ends(len(losses), fraction), 1)
    return [i for i in ranking(losses)[:cut] if math.isfinite(losses[i])]


def worst(losses: Sequence[float], fraction: float) -> list[int]:
    """Indices of the worst students, whom truncation selection replaces.

    Example:
        >>> worst([0.3, 0.1, 0.5, 0.2, 0.4], 0.4)
        [4, 2]
    """
    return ranking(losses)[len(losses) - ends(len(losses), fraction) :]


def truncation(
    losses: Sequence[float], own: int, fraction: float, rng: np.random.Generator
) -> int | None:
    """Truncation selection: a student among the worst is replaced by one of the best.

    Args:
        losses: Loss of each student, shape (n,); infinite where there is no hope.
        own: Index of the student in question.
        fraction: Of the students, at each end.
        rng: Draws one of the best, uniformly.

    Returns:
        Index of the student to clone, or None if this one goes on.

    Reference:
        Jaderberg et al. (2017), "Population based training of neural networks", Section 4.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> [truncation([0.3, 0.1, 0.5, 0.2, 0.4], own, 0.2, rng) for own in range(5)]
        [None, None, 1, None, None]
    """
    if own not in worst(losses, fraction) or not any(map(math.isfinite, losses)):
        return None
    return int(rng.choice(best(losses, fraction)))


def tournament(losses: Sequence[float], own: int, rng: np.random.Generator) -> int | None:
    """Binary tournament: a student is replaced by another, drawn uniformly, that is better.

    Args:
        losses: Loss of each student, shape (n,).
        own: Index of the student in question.
        rng: Draws the opponent.

    Returns:
        Index of the student to clone, or None if this one goes on.

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
