"""What figures are made of, whichever library draws them.

A chart has panels, a panel has axes and marks. Positions are numbers; a NaN in a line is a gap.
Colours are names of ``colors``: a colour-blind person can tell them apart, also in print.

The texts of a chart, some of which users have chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, TypeVar

Dash = Literal["solid", "dash", "dot"]
Symbol = Literal["circle", "open circle", "cross", "star", "tick", "triangle", "square"]


@dataclass(frozen=True)
class Line:
    """Points that are joined, in order."""

    x: Sequence[float]
    y: Sequence[float]
    color: str
    name: str | None = None  # in the legend; lines of one name are one entry
    dash: Dash = "solid"
    width: float = 1.5  # in points
    opacity: float = 1.0
    is_step: bool = False  # each value holds up to the next x
    texts: Sequence[str] = ()  # where the mouse is: by point, or one for all


@dataclass(frozen=True)
class Points:
    """Points that are not joined."""

    x: Sequence[float]
    y: Sequence[float]
    color: str | Sequence[str]  # for all, or by point
    name: str | None = None
    symbol: Symbol = "circle"
    size: float = 6.0  # in points
    opacity: float = 1.0
    texts: Sequence[str] = ()


@dataclass(frozen=True)
class Band:
    """What lies between two lines."""

    x: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    color: str
    name: str | None = None
    opacity: float = 0.2
    is_step: bool = False


@dataclass(frozen=True)
class Bars:
    """Upright bars from zero."""

    x: Sequence[float]
    height: Sequence[float]
    color: str
    name: str | None = None
    width: float = 0.8  # in units of x
    texts: Sequence[str] = ()


@dataclass(frozen=True)
class Surface:
    """Heights on a grid, as shades of grey behind other marks."""

    x: Sequence[float]
    y: Sequence[float]
    height: Sequence[Sequence[float]]  # by y, then x


@dataclass(frozen=True)
class Heat:
    """Cells of a grid, coloured by what they hold: from −1 to 1, NaN where there is nothing."""

    x: Sequence[float]  # edges, one more than there are columns
    y: Sequence[float]  # edges, one more than there are rows
    value: Sequence[Sequence[float]]  # by row, then column


Mark = Line | Points | Band | Bars | Surface | Heat


@dataclass(frozen=True)
class Axis:
    """One axis of a panel."""

    label: str = ""
    is_log: bool = False
    is_integer: bool = False  # ticks at whole numbers only
    ticks: Mapping[float, str] | None = None  # labels by position, instead of numbers
    range: tuple[float, float] | None = None  # in its unit, also where it is logarithmic


@dataclass(frozen=True)
class Scale:
    """What the colours of ``colors.shades`` mean, or of a ``Heat``, from −1 to 1."""

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
    message: str = ""  # said in its middle, where there is nothing to draw
    scale: Scale | None = None  # what its colours mean, where they are shades


@dataclass(frozen=True)
class Chart:
    """A figure."""

    title: str
    panels: Sequence[Panel]
    columns: int = 1
    size: tuple[float, float] = field(default=(6.0, 3.2))  # of a panel, in inches

    @property
    def scale(self) -> Scale | None:
        """What the colours of its panels mean: of cells if there are any, else of lines."""
        scales = [panel.scale for panel in self.panels if panel.scale is not None]
        return max(scales, key=lambda scale: scale.is_diverging, default=None)


def message(title: str, text: str) -> Chart:
    """A figure that says why there is nothing to see."""
    return Chart(title, [Panel("", Axis(), Axis(), [], text)])


P = TypeVar("P", Axis, Chart, Mark, Panel, Scale)


def with_texts(part: P, told: Callable[[str], str]) -> P:
    """A chart, or a part of one, whose texts have all gone through a function.

    Example:
        >>> with_texts(Axis("loss", ticks={1.0: "one"}), str.upper).ticks
        {1.0: 'ONE'}
    """
    values = {field.name: getattr(part, field.name) for field in fields(part)}
    return replace(part, **{name: _told(name, value, told) for name, value in values.items()})


def _told(name: str, value: Any, told: Callable[[str], str]) -> Any:
    if name in ("title", "label", "message", "name") and value is not None:
        return told(value)
    if name == "texts":
        return [told(text) for text in value]
    if name == "ticks" and value is not None:
        return {at: told(text) for at, text in value.items()}
    if name in ("panels", "marks"):
        return [with_texts(one, told) for one in value]
    if isinstance(value, Axis):
        return with_texts(value, told)
    return with_texts(value, told) if isinstance(value, Scale) else value
