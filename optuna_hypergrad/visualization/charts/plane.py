"""Two hyperparameters as the axes of one panel, and a surface over them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from optuna_hypergrad.arguments import named
from optuna_hypergrad.samplers.distributions import is_numeric
from optuna_hypergrad.visualization.charts import colors
from optuna_hypergrad.visualization.charts.descent import Point
from optuna_hypergrad.visualization.charts.marks import Mark, Points, Surface, Symbol
from optuna_hypergrad.visualization.charts.parameters import Parameter

GRID = 80  # points of a surface along each axis

STYLES: dict[str, tuple[str, Symbol, float]] = {
    "birth": (colors.BLUE, "circle", 4.0),
    "clone, mutated": (colors.ORANGE, "circle", 4.0),
    "best": (colors.RED, "star", 12.0),
    "start": (colors.BLUE, "open circle", 6.0),
    "came back from": (colors.RED, "cross", 6.0),
    "best of the searches": (colors.RED, "star", 12.0),
}

Height = Callable[[float, float], float]


class Plane(NamedTuple):
    """The two hyperparameters of a figure."""

    x: Parameter
    y: Parameter

    def at(self, values: Mapping[str, Any]) -> Point:
        """Where a student or a search is."""
        return self.x.at(values), self.y.at(values)

    def points(
        self, style: str, of: Iterable[tuple[Mapping[str, Any], str]], name: str | None = None
    ) -> list[Mark]:
        """Points of one style where there are some, each with what is said of it.

        The legend names them by their style, unless ``name`` is given.
        """
        found = [(*self.at(values), text) for values, text in of]
        x, y, texts = zip(*found, strict=True) if found else ((), (), ())
        color, symbol, size = STYLES[style]
        return [Points(x, y, color, name or style, symbol, size, texts=texts)] if found else []


def plane_of(known: Mapping[str, Parameter], x: str | None, y: str | None) -> Plane | None:
    """The hyperparameters that were named, else the first numeric ones."""
    wanted = [
        None if x is None else named("x", x, known),
        None if y is None else named("y", y, known),
    ]
    free = (p for p in known.values() if is_numeric(p.distribution) and p not in wanted)
    axes = [next(free, None) if one is None else one for one in wanted]
    return Plane(axes[0], axes[1]) if axes[0] is not None and axes[1] is not None else None


def surface_over(height: Height, plane: Plane) -> list[Mark]:
    """The surface; nothing where it is nowhere finite."""
    xs, ys = (_grid(parameter) for parameter in plane)
    heights = np.array([[float(height(x, y)) for x in xs] for y in ys])
    heights[~np.isfinite(heights)] = math.nan
    return [] if np.isnan(heights).all() else [Surface(xs, ys, heights.tolist())]


def _grid(parameter: Parameter) -> list[float]:
    low, high = parameter.range
    spaced = np.geomspace if parameter.is_log else np.linspace
    return [float(value) for value in spaced(low, high, GRID)]
