"""Charts as Plotly figures."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from optuna_hypergrad.arguments import optional_import
from optuna_hypergrad.visualization import charts
from optuna_hypergrad.visualization.charts import Band, Bars, Heat, Line, Points, colors
from optuna_hypergrad.visualization.charts.axes import log_ticks

if TYPE_CHECKING:
    import plotly.graph_objects as go

INCH = 100  # in pixels
MAX_INTEGERS = 8  # with a tick each
DIGITS = 6  # significant ones: enough for any screen, and dashboards store figures as text
POINT = 4 / 3  # in pixels
SYMBOLS = {
    "circle": "circle",
    "open circle": "circle-open",
    "cross": "x-thin-open",
    "star": "star",
    "tick": "line-ns-open",
    "triangle": "triangle-up",
    "square": "square",
}


def draw(chart: charts.Chart, gap: float = 0.35) -> go.Figure:
    """Draw a chart with Plotly.

    Args:
        chart: The chart.
        gap: Space between rows of panels, as a fraction of a panel's height.
    """
    with optional_import("plotly"):
        from plotly.subplots import make_subplots

    # Plotly would take markup in names for HTML.
    chart = charts.map_texts(chart, lambda text: html.escape(text, False).replace("\n", "<br>"))
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
        figure.add_trace(_color_bar(chart.scale), row=1, col=1)
    width, height = chart.size
    return figure.update_layout(
        title=chart.title,
        template="plotly_white",
        width=INCH * (columns * width + 1.6),
        height=INCH * (rows * height + 1.2),
        legend={"orientation": "h", "y": -0.5 / (rows * height), "yanchor": "top"},
        barmode="group",
        margin={"t": 90, "r": 40},
    )


def _draw_panel(
    figure: go.Figure, panel: charts.Panel, row: int, column: int, shown: set[str]
) -> None:
    """Draw a panel; ``shown`` are the legend entries so far."""
    place = {"row": row, "col": column}
    for mark in panel.marks:
        trace = _trace(mark)
        trace.showlegend = trace.name is not None and trace.name not in shown
        if trace.name is not None:
            trace.legendgroup = trace.name  # a click hides it in all panels
            shown.add(trace.name)
        figure.add_trace(trace, **place)
    figure.update_xaxes(**_axis(panel, "x"), **place)
    figure.update_yaxes(**_axis(panel, "y"), **place)
    if panel.message:
        figure.update_xaxes(visible=False, **place)
        figure.update_yaxes(visible=False, **place)
        at = {"x": 0.5, "y": 0.5, "xref": "x domain", "yref": "y domain"}
        figure.add_annotation(text=panel.message, showarrow=False, font_size=16, **at, **place)


def _axis(panel: charts.Panel, which: str) -> dict[str, Any]:
    axis: charts.Axis = getattr(panel, which)
    options: dict[str, Any] = {"title": axis.label, "exponentformat": "power"}  # not 200µ
    options["type"] = "log" if axis.is_log else "linear"
    values = _values(panel, which) if axis.is_integer or axis.is_log else []
    if axis.is_integer and values:
        options["tickformat"] = ",d"
        if max(values) - min(values) <= MAX_INTEGERS:
            options["dtick"] = 1  # by default there are ticks at halves, rounded
    ends, ticks = axis.range, axis.ticks
    if axis.is_log:
        if ends is None:
            positive = [value for value in values if value > 0] or [1.0]
            low, high = min(positive), max(positive)
            margin = (high / low) ** 0.07 if high > 1.2 * low else 1.5
            ends = low / margin, high * margin
        ticks = ticks or log_ticks(*ends)
    if ends is not None:
        options["range"] = [math.log10(end) if axis.is_log else end for end in ends]
    if ticks is not None:
        options |= {"tickvals": [*ticks], "ticktext": [*ticks.values()]}
    return options


def _values(panel: charts.Panel, which: str) -> list[float]:
    """All finite coordinates of marks along an axis."""
    fields = {"x": ("x",), "y": ("y", "low", "high", "height")}[which]
    marks = [mark for mark in panel.marks if not isinstance(mark, charts.Surface)]
    sequences = (getattr(mark, field, ()) for mark in marks for field in fields)
    return [float(value) for values in sequences for value in values if math.isfinite(value)]


def _trace(mark: charts.Mark) -> Any:
    from plotly import graph_objects as go

    style: dict[str, Any]
    if isinstance(mark, Line):
        shape = "hv" if mark.is_step else "linear"
        style = {"color": mark.color, "dash": mark.dash, "shape": shape}
        style["width"] = POINT * mark.width
        return go.Scatter(**_points(mark), mode="lines", line=style, opacity=mark.opacity)
    if isinstance(mark, Points):
        color = mark.color if isinstance(mark.color, str) else list(mark.color)
        marker = {"symbol": SYMBOLS[mark.symbol], "size": POINT * mark.size, "color": color}
        if mark.symbol in ("cross", "tick"):
            marker["line"] = {"width": 2, "color": color}
        marker["opacity"] = mark.opacity
        return go.Scatter(**_points(mark), mode="markers", marker=marker)
    x = _rounded(mark.x)
    if isinstance(mark, Band):
        y = _rounded([*mark.low, *reversed(mark.high)])
        style = {"fill": "toself", "fillcolor": mark.color, "opacity": mark.opacity}
        style |= {"line": {"width": 0}, "mode": "lines", "hoverinfo": "skip"}
        return go.Scatter(x=[*x, *reversed(x)], y=y, name=mark.name, **style)
    if isinstance(mark, Bars):
        text = {"text": list(mark.texts) or None, "textposition": "none"}
        style = {"marker_color": mark.color, "name": mark.name, "width": mark.width}
        return go.Bar(x=x, y=_rounded(mark.height), **style, **text)
    place = {"x": x, "y": _rounded(mark.y), "showscale": False, "hoverinfo": "skip"}
    if isinstance(mark, Heat):
        cells = [[None if math.isnan(v) else round(float(v), 3) for v in row] for row in mark.value]
        return go.Heatmap(**place, z=cells, zmin=-1, zmax=1, colorscale=_color_scale(True))
    heights = [_rounded(row) for row in mark.height]
    greys = [[0, "#ffffff"], [1, "#606060"]]
    return go.Heatmap(**place, z=heights, colorscale=greys, zsmooth="best")


def _points(mark: Line | Points) -> dict[str, Any]:
    """Coordinates, name and hover texts."""
    hover: dict[str, Any] = {}
    if mark.texts:
        text = mark.texts[0] if len(mark.texts) == 1 else list(mark.texts)
        hover = {"text": text, "hovertemplate": "%{text}<extra></extra>"}
    return {"x": _rounded(mark.x), "y": _rounded(mark.y), "name": mark.name, **hover}


def _color_bar(scale: charts.Scale) -> Any:
    """A trace without points that has the colour bar."""
    from plotly import graph_objects as go

    bar: dict[str, Any] = {"title": {"text": scale.label, "side": "right"}, "len": 0.9}
    if scale.is_integer:
        bar["tickformat"] = ",d"
    if scale.ticks is not None:
        bar |= {"tickvals": [*scale.ticks], "ticktext": [*scale.ticks.values()]}
    marker = {
        "color": [scale.low],
        "cmin": scale.low,
        "cmax": scale.high,
        "colorscale": _color_scale(scale.is_diverging),
        "colorbar": bar,
        "showscale": True,
    }
    return go.Scatter(x=[None], y=[None], mode="markers", marker=marker, showlegend=False)


def _color_scale(is_diverging: bool) -> list[list[Any]]:
    color = colors.diverging if is_diverging else colors.sequential
    return [[i / 10, color(i / 10)] for i in range(11)]


def _rounded(values: Iterable[float]) -> list[float | None]:
    """Python floats with few digits, NaN as None: what JSON and every plotly.js understands."""
    floats = map(float, values)
    return [float(f"{v:.{DIGITS}g}") if math.isfinite(v) else None for v in floats]
