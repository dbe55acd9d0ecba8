"""Charts as Plotly figures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from optuna_hypergrad.visualization.charts import colors
from optuna_hypergrad.visualization.charts.marks import (
    Axis,
    Band,
    Bars,
    Chart,
    Line,
    Mark,
    Panel,
    Points,
    Scale,
)
from optuna_hypergrad.visualization.drawing.missing import needing

if TYPE_CHECKING:
    import plotly.graph_objects as go

INCH = 100  # in pixels
DIGITS = 6  # significant ones: enough for any screen, and dashboards store figures as text
SYMBOLS = {
    "circle": "circle",
    "open circle": "circle-open",
    "cross": "x-thin-open",
    "star": "star",
    "triangle": "triangle-up",
    "square": "square",
}


def draw(chart: Chart) -> go.Figure:
    """The chart as a figure."""
    with needing("plotly"):
        from plotly.subplots import make_subplots

    columns = min(chart.columns, len(chart.panels))
    rows = -(-len(chart.panels) // columns)
    figure = make_subplots(
        rows=rows,
        cols=columns,
        subplot_titles=[panel.title for panel in chart.panels],
        horizontal_spacing=min(0.3 / columns, 0.12),
        vertical_spacing=min(0.35 / rows, 0.25),
    )
    shown: set[str] = set()
    for i, panel in enumerate(chart.panels):
        _draw_panel(figure, panel, 1 + i // columns, 1 + i % columns, shown)
    if chart.scale is not None:
        figure.add_trace(_color_bar(chart.scale), row=1, col=1)
    width, height = chart.size
    figure.update_layout(
        title=chart.title,
        template="plotly_white",
        width=INCH * (columns * width + 1.6),
        height=INCH * (rows * height + 1.2),
        legend={"orientation": "h", "y": -0.5 / (rows * height), "yanchor": "top"},
        barmode="group",
    )
    return figure


def _draw_panel(figure: go.Figure, panel: Panel, row: int, column: int, shown: set[str]) -> None:
    place = {"row": row, "col": column}
    for mark in panel.marks:
        for trace in _traces(mark):
            name = trace.name
            trace.showlegend = name is not None and name not in shown
            if name is not None:
                trace.legendgroup = name  # a click hides it in all panels
                shown.add(name)
            figure.add_trace(trace, **place)
    figure.update_xaxes(**_axis(panel.x), **place)
    figure.update_yaxes(**_axis(panel.y), **place)
    if panel.message:
        figure.update_xaxes(visible=False, **place)
        figure.update_yaxes(visible=False, **place)
        at = {"x": 0.5, "y": 0.5, "xref": "x domain", "yref": "y domain"}
        figure.add_annotation(text=panel.message, showarrow=False, font_size=16, **at, **place)


def _traces(mark: Mark) -> list[Any]:
    from plotly import graph_objects as go

    if isinstance(mark, Line):
        style = {"color": mark.color, "dash": mark.dash, "width": 4 / 3 * mark.width}
        style["shape"] = "hv" if mark.is_step else "linear"
        return [go.Scatter(**_at(mark), mode="lines", line=style, opacity=mark.opacity)]
    if isinstance(mark, Points):
        return [go.Scatter(**_at(mark), mode="markers", marker=_marker(mark))]
    if isinstance(mark, Band):
        return [_band(mark)]
    if isinstance(mark, Bars):
        tips = {"text": list(mark.texts) or None, "textposition": "none"}
        height = _rounded(mark.height)
        bars = {"marker_color": mark.color, "name": mark.name, "width": mark.width, **tips}
        return [go.Bar(x=_rounded(mark.x), y=height, **bars)]
    heights = [_rounded(row) for row in mark.height]
    grey = [[0, "#606060"], [1, "#ffffff"]]
    z = {"z": heights, "colorscale": grey, "showscale": False, "hoverinfo": "skip"}
    return [go.Heatmap(x=_rounded(mark.x), y=_rounded(mark.y), **z)]


def _at(mark: Line | Points) -> dict[str, Any]:
    """Where a mark is, and what it says."""
    tips: dict[str, Any] = {}
    if mark.texts:
        tips = {"text": list(mark.texts), "hovertemplate": "%{text}<extra></extra>"}
    return {"x": _rounded(mark.x), "y": _rounded(mark.y), "name": mark.name, **tips}


def _marker(mark: Points) -> dict[str, Any]:
    color = mark.color if isinstance(mark.color, str) else list(mark.color)
    marker = {"symbol": SYMBOLS[mark.symbol], "size": 4 / 3 * mark.size, "color": color}
    if mark.symbol == "cross":
        marker["line"] = {"width": 2, "color": color}
    return {**marker, "opacity": mark.opacity}


def _band(mark: Band) -> Any:
    from plotly import graph_objects as go

    x, low, high = mark.x, mark.low, mark.high
    if mark.is_step:
        x, (low, high) = _stairs(x), (_held(low), _held(high))
    outline = [*low, *reversed(high)]
    return go.Scatter(
        x=_rounded([*x, *reversed(x)]),
        y=_rounded(outline),
        name=mark.name,
        fill="toself",
        fillcolor=mark.color,
        opacity=mark.opacity,
        line={"width": 0},
        mode="lines",
        hoverinfo="skip",
    )


def _stairs(x: Sequence[float]) -> list[float]:
    """Where the corners of stairs lie; the last step is a point."""
    return [at for i, value in enumerate(x) for at in ([value] if i == 0 else [value, value])]


def _held(y: Sequence[float]) -> list[float]:
    return [at for i, value in enumerate(y) for at in ([value] if i == 0 else [y[i - 1], value])]


def _axis(axis: Axis) -> dict[str, Any]:
    options: dict[str, Any] = {"title": axis.label, "type": "log" if axis.is_log else "linear"}
    if axis.is_log:
        options |= {"dtick": None, "exponentformat": "power"}
    if axis.is_integer:
        options["tickformat"] = ",d"
    if axis.ticks is not None:
        options |= {"tickvals": [*axis.ticks], "ticktext": [*axis.ticks.values()]}
    if axis.range is not None:
        options["range"] = [math.log10(end) if axis.is_log else end for end in axis.range]
    return options


def _color_bar(scale: Scale) -> Any:
    """A trace of no points that brings the bar along."""
    from plotly import graph_objects as go

    tenths = [i / 10 for i in range(11)]
    marker = {
        "color": [scale.low],
        "cmin": scale.low,
        "cmax": scale.high,
        "colorscale": [[at, colors.shade(at)] for at in tenths],
        "colorbar": {"title": {"text": scale.label, "side": "right"}, "len": 0.9},
        "showscale": True,
    }
    return go.Scatter(x=[None], y=[None], mode="markers", marker=marker, showlegend=False)


def _rounded(values: Iterable[float]) -> list[float | None]:
    """Plain floats, few digits, gaps as None: what JSON and every plotly.js understands."""
    floats = map(float, values)
    return [float(f"{v:.{DIGITS}g}") if math.isfinite(v) else None for v in floats]
