"""Marks as Plotly traces."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from optuna_hypergrad.visualization.charts import colors
from optuna_hypergrad.visualization.charts.marks import (
    Band,
    Bars,
    Heat,
    Line,
    Mark,
    Points,
    Scale,
)

DIGITS = 6  # significant ones: enough for any screen, and dashboards store figures as text
SYMBOLS = {
    "circle": "circle",
    "open circle": "circle-open",
    "cross": "x-thin-open",
    "star": "star",
    "tick": "line-ns-open",
    "triangle": "triangle-up",
    "square": "square",
}


def traces(mark: Mark) -> list[Any]:
    """What draws a mark."""
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
    if isinstance(mark, Heat):
        return [_heat(mark)]
    heights = [_rounded(row) for row in mark.height]
    grey = [[0, "#ffffff"], [1, "#606060"]]
    z = {"z": heights, "colorscale": grey, "showscale": False, "hoverinfo": "skip"}
    z["zsmooth"] = "best"
    return [go.Heatmap(x=_rounded(mark.x), y=_rounded(mark.y), **z)]


def _at(mark: Line | Points) -> dict[str, Any]:
    """Where a mark is, and what it says."""
    tips: dict[str, Any] = {}
    if mark.texts:
        text = mark.texts[0] if len(mark.texts) == 1 else list(mark.texts)
        tips = {"text": text, "hovertemplate": "%{text}<extra></extra>"}
    return {"x": _rounded(mark.x), "y": _rounded(mark.y), "name": mark.name, **tips}


def _marker(mark: Points) -> dict[str, Any]:
    color = mark.color if isinstance(mark.color, str) else list(mark.color)
    marker = {"symbol": SYMBOLS[mark.symbol], "size": 4 / 3 * mark.size, "color": color}
    if mark.symbol in ("cross", "tick"):
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


def _heat(mark: Heat) -> Any:
    from plotly import graph_objects as go

    cells = [[None if math.isnan(v) else round(float(v), 3) for v in row] for row in mark.value]
    colored = {"zmin": -1, "zmax": 1, "colorscale": _color_scale(is_diverging=True)}
    place = {"x": _rounded(mark.x), "y": _rounded(mark.y)}
    return go.Heatmap(**place, z=cells, **colored, showscale=False, hoverinfo="skip")


def _color_scale(is_diverging: bool) -> list[list[Any]]:
    shade = colors.diverging if is_diverging else colors.shade
    return [[i / 10, shade(i / 10)] for i in range(11)]


def color_bar(scale: Scale) -> Any:
    """A trace of no points that brings the bar along."""
    from plotly import graph_objects as go

    bar: dict[str, Any] = {"title": {"text": scale.label, "side": "right"}, "len": 0.9}
    if scale.is_integer:
        bar["tickformat"] = ",d"
    if scale.ticks is not None:
        bar |= {
            "tickvals": [*scale.ticks],
            "ticktext": [*scale.ticks.values()],
        }
    marker = {
        "color": [scale.low],
        "cmin": scale.low,
        "cmax": scale.high,
        "colorscale": _color_scale(scale.is_diverging),
        "colorbar": bar,
        "showscale": True,
    }
    return go.Scatter(x=[None], y=[None], mode="markers", marker=marker, showlegend=False)


def _rounded(values: Iterable[float]) -> list[float | None]:
    """Plain floats, few digits, gaps as None: what JSON and every plotly.js understands."""
    floats = map(float, values)
    return [float(f"{v:.{DIGITS}g}") if math.isfinite(v) else None for v in floats]
