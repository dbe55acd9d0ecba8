"""Charts as matplotlib figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from optuna_hypergrad.arguments import optional_import
from optuna_hypergrad.visualization.charts import colors
from optuna_hypergrad.visualization.charts.axes import log_ticks
from optuna_hypergrad.visualization.charts.marks import (
    Axis,
    Band,
    Bars,
    Chart,
    Heat,
    Line,
    Mark,
    Panel,
    Points,
    Scale,
    with_texts,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

MOST_LETTERS = 40  # of labels side by side
DASHES = {"solid": "-", "dash": "--", "dot": ":"}
SYMBOLS = {
    "circle": "o",
    "open circle": "o",
    "cross": "x",
    "star": "*",
    "tick": "|",
    "triangle": "^",
    "square": "s",
}


def draw(chart: Chart) -> Figure:
    """The chart as a figure, which ``plt.show()`` shows and ``figure.savefig`` stores."""
    chart = with_texts(chart, _plain)
    figure, axes = _layout(chart)
    for axis, panel in zip(axes, chart.panels, strict=False):
        _draw_panel(axis, panel)
    for empty in axes[len(chart.panels) :]:
        empty.set_axis_off()
    if chart.scale is not None:
        _color_bar(figure, axes, chart.scale)
    figure.suptitle(chart.title)
    _legend(figure, axes)
    return figure


def _layout(chart: Chart) -> tuple[Figure, list[Axes]]:
    """An empty figure with places for all panels."""
    with optional_import("matplotlib"):
        from matplotlib import pyplot as plt

    columns = min(chart.columns, len(chart.panels))
    rows = -(-len(chart.panels) // columns)
    width, height = chart.size
    size = columns * width + 0.5, rows * height + 0.5
    figure, grid = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    return figure, [*grid.flat]


def _draw_panel(axes: Axes, panel: Panel) -> None:
    axes.set_title(panel.title, fontsize=10)
    axes.grid(True, color="0.92", zorder=0)
    axes.set_axisbelow(True)
    for mark in panel.marks:
        _draw_mark(axes, mark)
    if panel.message:
        axes.set_axis_off()
        middle: dict[str, Any] = {"ha": "center", "va": "center", "in_layout": False}
        axes.text(0.5, 0.5, panel.message, transform=axes.transAxes, **middle)
        return
    _set_axis(axes, "x", panel.x)
    _set_axis(axes, "y", panel.y)


def _draw_mark(axes: Axes, mark: Mark) -> None:
    style: dict[str, Any]
    if isinstance(mark, Line):
        style = {"linestyle": DASHES[mark.dash], "linewidth": mark.width, "alpha": mark.opacity}
        style |= {"drawstyle": "steps-post" if mark.is_step else "default"}
        axes.plot(mark.x, mark.y, color=mark.color, label=mark.name, **style)
    elif isinstance(mark, Points):
        _draw_points(axes, mark)
    elif isinstance(mark, Band):
        style = {"color": mark.color, "alpha": mark.opacity, "linewidth": 0, "label": mark.name}
        style["step"] = "post" if mark.is_step else None
        axes.fill_between(mark.x, mark.low, mark.high, **style)
    elif isinstance(mark, Bars):
        axes.bar(mark.x, mark.height, width=mark.width, color=mark.color, label=mark.name)
    elif isinstance(mark, Heat):
        style = {"cmap": _color_map(is_diverging=True), "vmin": -1.0, "vmax": 1.0, "zorder": 0}
        axes.pcolormesh(mark.x, mark.y, mark.value, **style)
    else:
        # Above the grid, below the lines; half of the greys, as what lies on it must be seen.
        low, high = np.nanmin(mark.height), np.nanmax(mark.height)
        style = {"cmap": "Greys", "vmin": low, "vmax": 2 * high - low, "zorder": 0.6}
        axes.pcolormesh(mark.x, mark.y, mark.height, shading="gouraud", **style)


def _draw_points(axes: Axes, mark: Points) -> None:
    color = mark.color if isinstance(mark.color, str) else list(mark.color)
    style: dict[str, Any] = {"marker": SYMBOLS[mark.symbol], "s": mark.size**2}
    if mark.symbol == "open circle":
        style |= {"facecolors": "none", "edgecolors": color}
    else:
        style["color"] = color
    axes.scatter(mark.x, mark.y, alpha=mark.opacity, label=mark.name, zorder=3, **style)


def _set_axis(axes: Axes, which: Literal["x", "y"], axis: Axis) -> None:
    options: dict[str, Any] = {f"{which}label": axis.label}
    if axis.is_log:
        options[f"{which}scale"] = "log"
    if axis.range is not None:
        options[f"{which}lim"] = axis.range
    axes.set(**options)
    if axis.ticks is None and not axis.is_log:
        axes.ticklabel_format(axis=which, useOffset=False)  # not 1e-7+1
    own = axes.xaxis if which == "x" else axes.yaxis
    if axis.is_integer:
        from matplotlib.ticker import MaxNLocator

        own.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    ticks = axis.ticks
    if axis.is_log:
        own.minorticks_off()
    if ticks is None and axis.is_log:
        ticks = log_ticks(*own.get_view_interval())
    if ticks is not None:
        own.set_ticks([*ticks], [*ticks.values()])
        if which == "x" and sum(map(len, ticks.values())) > MOST_LETTERS:
            axes.tick_params("x", rotation=30)


def _color_map(is_diverging: bool) -> LinearSegmentedColormap:
    from matplotlib.colors import LinearSegmentedColormap

    shade = colors.diverging if is_diverging else colors.shade
    return LinearSegmentedColormap.from_list("shades", [shade(i / 10) for i in range(11)])


def _color_bar(figure: Figure, axes: list[Axes], scale: Scale) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    mappable = ScalarMappable(Normalize(scale.low, scale.high), _color_map(scale.is_diverging))
    bar = figure.colorbar(mappable, ax=axes, label=scale.label)
    if scale.is_integer:
        from matplotlib.ticker import MaxNLocator

        bar.locator = MaxNLocator(integer=True)
    if scale.ticks is not None:
        bar.set_ticks([*scale.ticks], labels=[*scale.ticks.values()])


def _legend(figure: Figure, axes: list[Axes]) -> None:
    """One entry for each name, below all panels."""
    entries: dict[str, Any] = {}
    for one in axes:
        for handle, name in zip(*one.get_legend_handles_labels(), strict=True):
            entries.setdefault(name, handle)
    if entries:
        columns = min(len(entries), 4)
        place: dict[str, Any] = {"loc": "outside lower center", "ncols": columns, "fontsize": 8}
        figure.legend([*entries.values()], [*entries], **place)


def _plain(text: str) -> str:
    """A text as it is: what lies between dollars would be typeset, and what begins with an
    underscore has no place in a legend."""
    shown = text.replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown
