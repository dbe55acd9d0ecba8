"""Coordinates of a Gaussian process: groups of hyperparameters as levels and shapes.

The values of a group (the windows of a schedule, the learning rates of layers) act together first:
their common level counts more than what distinguishes them. The orthonormal cosine transform of a
group has its level as first component and ever finer shapes after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dct
from scipy.linalg import block_diag

from optuna_hypergrad.algorithms.ranges import Array

CHOICE_LENGTH = 0.5  # where two choices have the distance 1
LEVEL, SHAPE = 0.35, 0.25  # how far good levels and first shapes are expected, in ranges
FINEST = 4  # the second shape is half as large, and so on, but none smaller than the fourth
MAX_DIMENSION = 64  # of all components; finer shapes of large groups are left as they are


@dataclass(frozen=True, eq=False)
class Coordinates:
    """Points of the unit cube, with categories in one-hot code, as coordinates of a process.

    Args:
        groups: How many numeric hyperparameters each group holds, in order.
        choices: How many choices each categorical hyperparameter has; these come last.
        slopes: Slopes of some runs by the numeric hyperparameters, shape (m, n). Groups that are
            too large for all their components have the main directions of these beside the
            smoothest shapes, so that any pattern in them can be followed.

    Example:
        >>> coordinates = Coordinates((2, 1), (3,))
        >>> coordinates.of(np.array([[0.5, 0.5, 0.2, 0.0, 1.0, 0.0]])).round(2)
        array([[0.71, 0.  , 0.2 , 0.  , 0.71, 0.  ]])
        >>> coordinates.kinds
        (0, 1, 2, 3, 3, 3)
    """

    groups: tuple[int, ...]
    choices: tuple[int, ...] = ()
    slopes: Array | None = None

    @property
    def n_numeric(self) -> int:
        """Number of numeric hyperparameters."""
        return sum(self.groups)

    @property
    def dimension(self) -> int:
        """Length of a point of the unit cube: a number, or one entry for each choice."""
        return self.n_numeric + sum(self.choices)

    @property
    def n_slopes(self) -> int:
        """How many coordinates of a point can have a slope."""
        return sum(map(len, self._parts))

    @cached_property
    def _room(self) -> tuple[int, ...]:
        """How many components of each group may count."""
        room = max(1, (MAX_DIMENSION - sum(self.choices)) // max(1, len(self.groups)))
        small = sum(size for size in self.groups if size <= room)
        large = [size for size in self.groups if size > room]
        room = max(1, (MAX_DIMENSION - sum(self.choices) - small) // max(1, len(large)))
        return tuple(min(size, room) for size in self.groups)

    @cached_property
    def _parts(self) -> list[Array]:
        """The orthonormal components of each group, shape (components, size)."""
        found, start = list[Array](), 0
        for size, room in zip(self.groups, self._room, strict=True):
            waves = _waves(size)
            if room < size:
                own = None if self.slopes is None else self.slopes[:, start : start + size]
                n_waves = _n_waves(size, room)
                waves = _with_directions(waves[:n_waves], own, room - n_waves)
            found.append(waves)
            start += size
        return found

    @cached_property
    def basis(self) -> Array:
        """Transposed transform, shape (dimension, components)."""
        codes = [np.eye(n) / np.sqrt(2.0) for n in self.choices]
        return np.asarray(block_diag(*(part.T for part in self._parts), *codes), dtype=float)

    @cached_property
    def kinds(self) -> tuple[int, ...]:
        """The length scale of each coordinate: each group has one for its level, one for shapes."""
        found: list[int] = []
        for size in map(len, self._parts):
            first = max(found, default=-1) + 1
            found += [first, *[first + 1] * (size - 1)]
        for n in self.choices:
            found += [max(found, default=-1) + 1] * n
        return tuple(found)

    @cached_property
    def lengths(self) -> Array:
        """Length scales that are expected before anything is known, by kind.

        Half a range, and more in many dimensions, where distances grow with their square root.
        """
        n_independent = len(self.groups) + len(self.choices)
        length = 0.5 * np.sqrt(max(1.0, n_independent / 2))
        found: list[float] = []
        for size, part in zip(self.groups, self._parts, strict=True):
            found += [length * np.sqrt(size)] * min(len(part), 2)
        return np.array(found + [CHOICE_LENGTH] * len(self.choices))

    @cached_property
    def length_spreads(self) -> Array:
        """Standard deviations of the logarithms of ``lengths``.

        Small for categories: that one choice was bad at one point says little about it elsewhere.
        """
        n_numeric = len(self.lengths) - len(self.choices)
        return np.array([0.75] * n_numeric + [0.25] * len(self.choices))

    @cached_property
    def prior(self) -> tuple[Array, Array]:
        """Where good points are expected before anything is known: means and precisions.

        Levels around the middle of the range, shapes around 0, finer ones nearer to it. Directions
        of slopes are as plausible as the first shape, and choices as one another (precision 0).
        """
        means, precisions = list[float](), list[float]()
        for size, part, room in zip(self.groups, self._parts, self._room, strict=True):
            order = np.arange(1, len(part))
            order = np.where(order < _n_waves(size, room), np.minimum(order, FINEST), 1)
            means += [0.5 * np.sqrt(size)] + [0.0] * len(order)
            precisions += [1 / (LEVEL**2 * size), *(order**2 / (SHAPE**2 * size))]
        of_choices = [0.0] * sum(self.choices)
        return np.array(means + of_choices), np.array(precisions + of_choices)

    def of(self, u: Array) -> Array:
        """Coordinates of points, shape (k, components)."""
        return u @ self.basis

    def slopes_of(self, slopes: Array) -> Array:
        """Slopes along the coordinates, of slopes in the unit cube; NaN where one is unknown."""
        found = np.where(np.isfinite(slopes), slopes, 0.0) @ self.basis
        unknown = (~np.isfinite(slopes)).astype(float) @ np.abs(self.basis) > 1e-12
        return np.where(unknown, np.nan, found)

    def spread(self, level: Array, shape: Array) -> Array:
        """Points from levels of the groups, shape (k, groups), plus smooth shapes.

        Args:
            level: Common value of each group.
            shape: Sizes of the first shapes of each group, shape (k, groups, s).
        """
        columns = []
        for g, size in enumerate(self.groups):
            waves = _waves(size)[1 : 1 + shape.shape[2]]
            bent = shape[:, g, : len(waves)] @ waves * np.sqrt(size)
            columns.append(level[:, g : g + 1] + bent)
        return np.clip(np.hstack(columns), 0.0, 1.0) if columns else np.empty((len(level), 0))


@cache
def _waves(size: int) -> Array:
    """The cosine transform of a group, its level first, shape (size, size)."""
    return np.asarray(dct(np.eye(size), axis=0, norm="ortho"), dtype=float)


def _n_waves(size: int, room: int) -> int:
    """How many components of a group are shapes; the others follow slopes."""
    return size if room >= size else max(1, room // 2)


def _with_directions(waves: Array, slopes: Array | None, n: int) -> Array:
    """Orthonormal shapes, and up to ``n`` main directions of what slopes have beside them."""
    if slopes is None:
        return waves
    known = slopes[np.isfinite(slopes).all(axis=1)]
    rest = known - known @ waves.T @ waves
    rest = rest[np.linalg.norm(rest, axis=1) > 1e-9]
    if not len(rest):
        return waves
    _, sizes, directions = np.linalg.svd(rest, full_matrices=False)
    return np.vstack([waves, directions[: min(n, int((sizes > 1e-9 * sizes[0]).sum()))]])


def one_hot(codes: Sequence[int] | NDArray[np.int64], choices: Sequence[int]) -> Array:
    """One-hot code of one choice of each categorical hyperparameter."""
    parts = [np.eye(n)[code] for code, n in zip(codes, choices, strict=True)]
    return np.concatenate(parts) if parts else np.empty(0)
