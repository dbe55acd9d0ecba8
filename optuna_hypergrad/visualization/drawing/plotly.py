"""Charts as Plotly figures."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from optuna_hypergrad.arguments import optional_import
from optuna_hypergrad.visualization.charts.axes import log_ticks
from optuna_hypergrad.visualization.charts.marks import (
    Axis,
    Chart,
    Panel,
    Surface,
    with_texts,
)
from optuna_hypergrad.visualization.drawing.traces import color_bar, traces

if TYPE_CHECKING:
    import plotly.graph_objects as go

INCH = 100  # in pixels
FEW = 8  # whole numbers, each with a tick


def draw(chart: Chart, gap: float = 0.35) -> go.Figure:
    """The chart as a figure; between its rows of panels is a gap, as a part of a panel."""
    with optional_import("plotly"):
        from plotly.subplots import make_subplots

    chart = with_texts(chart, _plain)
    columns = min(chart.columns, len(chart.panels))
    rows = -(-len(chart.panels) // columns)
    figure = make_subplots(
        rows=rows,
        cols=columns,
        subplot_titles=[panel.title for panel in chart.panels],
        horizontal_spacing=min(0.3 / columns, 0.12),
        vertical_spacing=min(gap / rows, 0.25),
    )
    shown: set[str] = set()
    for i, panel in enumerate(chart.panels):
        _draw_panel(figure, panel, 1 + i // columns, 1 + i % columns, shown)
    if chart.scale is not None:
        figure.add_trace(color_bar(chart.scale), row=1, col=1)
    return figure.update_layout(_layout(chart, rows, columns))


def _plain(text: str) -> str:
    """A text as it is, though plotly takes some HTML."""
    return html.escape(text, quote=False).replace("\n", "<br>")


def _layout(chart: Chart, rows: int, columns: int) -> dict[str, Any]:
    width, height = chart.size
    return {
        "title": chart.title,
        "template": "plotly_white",
        "width": INCH * (columns * width + 1.6),
        "height": INCH * (rows * height + 1.2),
        "legend": {"orientation": "h", "y": -0.5 / (rows * height), "yanchor": "top"},
        "barmode": "group",
        "margin": {"t": 90, "r": 40},
    }


def _draw_panel(figure: go.Figure, panel: Panel, row: int, column: int, shown: set[str]) -> None:
    place = {"row": row, "col": column}
    for mark in panel.marks:
        for trace in traces(mark):
            name = trace.name
            trace.showlegend = name is not None and name not in shown
            if name is not None:
                trace.legendgroup = name  # a click hides it in all panels
                shown.add(name)
            figure.add_trace(trace, **place)
    figure.update_xaxes(**_axis(panel, "x"), **place)
    figure.update_yaxes(**_axis(panel, "y"), **place)
    if panel.message:
        figure.update_xaxes(visible=False, **place)
        figure.update_yaxes(visible=False, **place)
        at = {"x": 0.5, "y": 0.5, "xref": "x domain", "yref": "y domain"}
        figure.add_annotation(text=panel.message, showarrow=False, font_size=16, **at, **place)


def _axis(panel: Panel, which: str) -> dict[str, Any]:
    axis: Axis = getattr(panel, which)
    options: dict[str, Any] = {"title": axis.label, "exponentformat": "power"}  # not 200µ
    options["type"] = "log" if axis.is_log else "linear"
    places = _places(panel, which) if axis.is_integer or axis.is_log else []
    if axis.is_integer and places:
        options["tickformat"] = ",d"
        if max(places) - min(places) <= FEW:
            options["dtick"] = 1  # plotly would round the halves
    ends, ticks = axis.range, axis.ticks
    if axis.is_log:
        ends = ends or _ends([at for at in places if at > 0] or [1.0])
        ticks = ticks or log_ticks(*ends)
    if ends is not None:
        options["range"] = [math.log10(end) if axis.is_log else end for end in ends]
    if ticks is not None:
        options |= {"tickvals": [*ticks], "ticktext": [*ticks.values()]}
    return options


def _places(panel: Panel, which: str) -> list[float]:
    """All finite places along an axis where something is drawn."""
    parts = {"x": ("x",), "y": ("y", "low", "high", "height")}[which]
    marks = [mark for mark in panel.marks if not isinstance(mark, Surface)]
    along = (getattr(mark, part, ()) for mark in marks for part in parts)
    return [float(at) for places in along for at in places if math.isfinite(at)]


def _ends(places: Sequence[float]) -> tuple[float, float]:
    """Where a logarithmic axis begins and ends, with some margin."""
    low, high = min(places), max(places)
    margin = (high / low) ** 0.07 if high > 1.2 * low else 1.5
    return low / margin, high * margin
