"""What figures are made of, whichever library draws them.

A chart has panels; a panel has two axes, and marks on them. A NaN in a line is a gap.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeVar

Dash = Literal["solid", "dash", "dot"]
Symbol = Literal["circle", "open circle", "cross", "star", "tick", "triangle", "square"]


@dataclass(frozen=True)
class Line:
    """Points joined in order."""

    x: Sequence[float]
    y: Sequence[float]
    color: str
    name: str | None = None  # in the legend; marks of the same name share an entry
    dash: Dash = "solid"
    width: float = 1.5  # in points
    opacity: float = 1.0
    is_step: bool = False  # each value holds up to the next x
    texts: Sequence[str] = ()  # hover texts: one for each point, or one for all


@dataclass(frozen=True)
class Points:
    """Points that are not joined."""

    x: Sequence[float]
    y: Sequence[float]
    color: str | Sequence[str]  # one for all points, or one for each
    name: str | None = None
    symbol: Symbol = "circle"
    size: float = 6.0  # in points
    opacity: float = 1.0
    texts: Sequence[str] = ()


@dataclass(frozen=True)
class Band:
    """The area between two lines."""

    x: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    color: str
    name: str | None = None
    opacity: float = 0.2


@dataclass(frozen=True)
class Bars:
    """Vertical bars from zero."""

    x: Sequence[float]
    height: Sequence[float]
    color: str
    name: str | None = None
    width: float = 0.8  # in units of x
    texts: Sequence[str] = ()


@dataclass(frozen=True)
class Surface:
    """Heights on a grid, in shades of grey behind other marks."""

    x: Sequence[float]
    y: Sequence[float]
    height: Sequence[Sequence[float]]  # shape (y, x)


@dataclass(frozen=True)
class Heat:
    """Cells coloured by values from −1 to 1; NaN leaves a cell empty."""

    x: Sequence[float]  # edges of the cells, one more than there are columns
    y: Sequence[float]
    value: Sequence[Sequence[float]]  # shape (y, x)


Mark = Line | Points | Band | Bars | Surface | Heat


@dataclass(frozen=True)
class Axis:
    """One axis of a panel."""

    label: str = ""
    is_log: bool = False
    is_integer: bool = False  # ticks at integers only
    ticks: Mapping[float, str] | None = None  # labels by position, instead of numbers
    range: tuple[float, float] | None = None  # in natural units, also on logarithmic axes


@dataclass(frozen=True)
class Scale:
    """What the colours of lines mean, or those of a ``Heat``."""

    label: str
    low: float
    high: float
    is_diverging: bool = False  # the colours of a ``Heat``
    ticks: Mapping[float, str] | None = None
    is_integer: bool = False


@dataclass(frozen=True)
class Panel:
    """Marks on a pair of axes."""

    title: str
    x: Axis
    y: Axis
    marks: Sequence[Mark]
    message: str = ""  # shown in the middle where there is nothing to draw
    scale: Scale | None = None


@dataclass(frozen=True)
class Chart:
    """A figure."""

    title: str
    panels: Sequence[Panel]
    columns: int = 1
    size: tuple[float, float] = (6.0, 3.2)  # of a panel, in inches

    @property
    def scale(self) -> Scale | None:
        """The scale to show: that of cells if there are any, else that of lines."""
        scales = [panel.scale for panel in self.panels if panel.scale is not None]
        return max(scales, key=lambda scale: scale.is_diverging, default=None)


def message(title: str, text: str) -> Chart:
    """A figure that says why there is nothing to draw."""
    return Chart(title, [Panel("", Axis(), Axis(), [], text)])


P = TypeVar("P", Axis, Chart, Mark, Panel, Scale)


def map_texts(part: P, function: Callable[[str], str]) -> P:
    """Apply a function to all texts of a chart, or of a part of one.

    Example:
        >>> map_texts(Axis("loss", ticks={1.0: "one"}), str.upper).ticks
        {1.0: 'ONE'}
    """
    changed: dict[str, Any] = {}
    for name in (one.name for one in fields(part)):
        value: Any = getattr(part, name)
        if name in ("x", "y", "scale") and isinstance(part, Panel) and value is not None:
            changed[name] = map_texts(value, function)
        elif name in ("panels", "marks"):
            changed[name] = [map_texts(one, function) for one in value]
        elif name in ("title", "label", "message", "name") and value is not None:
            changed[name] = function(value)
        elif name == "texts":
            changed[name] = [function(text) for text in value]
        elif name == "ticks" and value is not None:
            changed[name] = {position: function(text) for position, text in value.items()}
    return replace(part, **changed)
