"""The figures of ``optuna_hypergrad.visualization`` as matplotlib figures."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, ParamSpec

import numpy as np

from optuna_hypergrad.arguments import optional_import
from optuna_hypergrad.visualization import charts, figures
from optuna_hypergrad.visualization.charts import Band, Bars, Heat, Line, Points, colors
from optuna_hypergrad.visualization.charts.axes import log_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

__all__ = [
    "plot_arrays",
    "plot_convergence",
    "plot_growth",
    "plot_hypergradients",
    "plot_hypervariance",
    "plot_lineage",
    "plot_mutations",
    "plot_population",
    "plot_schedules",
    "plot_step_sizes",
    "plot_trajectories",
]

P = ParamSpec("P")
MAX_LETTERS = 40  # of labels side by side
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


def draw(chart: charts.Chart) -> Figure:
    """Draw a chart with matplotlib."""
    with optional_import("matplotlib"):
        from matplotlib import pyplot as plt

    # Text between dollars would be typeset, and a name with an initial underscore have no legend.
    chart = charts.map_texts(chart, lambda text: re.sub("^_", " _", text.replace("$", r"\$")))
    columns = min(chart.columns, len(chart.panels))
    rows = -(-len(chart.panels) // columns)
    width, height = chart.size
    size = columns * width + 0.5, rows * height + 0.5
    figure, grid = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    axes = [*grid.flat]
    for one, panel in zip(axes, chart.panels, strict=False):
        _draw_panel(one, panel)
    for unused in axes[len(chart.panels) :]:
        unused.set_axis_off()
    if chart.scale is not None:
        _color_bar(figure, axes, chart.scale)
    figure.suptitle(chart.title)
    _legend(figure, axes)
    return figure


def _matplotlib(chart: Callable[P, charts.Chart]) -> Callable[P, Figure]:
    doc = f"``{__package__}.plot_{chart.__name__}`` as a matplotlib figure."
    return figures.plot_function(chart, draw, __name__, doc)


plot_arrays = _matplotlib(figures.arrays)
plot_convergence = _matplotlib(figures.convergence)
plot_growth = _matplotlib(figures.growth)
plot_hypergradients = _matplotlib(figures.hypergradients)
plot_hypervariance = _matplotlib(figures.hypervariance)
plot_lineage = _matplotlib(figures.lineage)
plot_mutations = _matplotlib(figures.mutations)
plot_population = _matplotlib(figures.population)
plot_schedules = _matplotlib(figures.schedules)
plot_step_sizes = _matplotlib(figures.step_sizes)
plot_trajectories = _matplotlib(figures.trajectories)


def _draw_panel(axes: Axes, panel: charts.Panel) -> None:
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


def _draw_mark(axes: Axes, mark: charts.Mark) -> None:
    style: dict[str, Any]
    if isinstance(mark, Line):
        style = {"linestyle": DASHES[mark.dash], "linewidth": mark.width, "alpha": mark.opacity}
        style |= {"drawstyle": "steps-post" if mark.is_step else "default"}
        axes.plot(mark.x, mark.y, color=mark.color, label=mark.name, **style)
    elif isinstance(mark, Points):
        _draw_points(axes, mark)
    elif isinstance(mark, Band):
        style = {"color": mark.color, "alpha": mark.opacity, "linewidth": 0, "label": mark.name}
        axes.fill_between(mark.x, mark.low, mark.high, **style)
    elif isinstance(mark, Bars):
        axes.bar(mark.x, mark.height, width=mark.width, color=mark.color, label=mark.name)
    elif isinstance(mark, Heat):
        style = {"cmap": _color_map(is_diverging=True), "vmin": -1.0, "vmax": 1.0, "zorder": 0}
        axes.pcolormesh(mark.x, mark.y, mark.value, **style)
    else:
        # Above the grid, below the lines; only the lighter greys, so that marks stay visible.
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


def _set_axis(axes: Axes, which: Literal["x", "y"], axis: charts.Axis) -> None:
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
        if which == "x" and sum(map(len, ticks.values())) > MAX_LETTERS:
            axes.tick_params("x", rotation=30)


def _color_map(is_diverging: bool) -> LinearSegmentedColormap:
    from matplotlib.colors import LinearSegmentedColormap

    color = colors.diverging if is_diverging else colors.sequential
    return LinearSegmentedColormap.from_list("colors", [color(i / 10) for i in range(11)])


def _color_bar(figure: Figure, axes: list[Axes], scale: charts.Scale) -> None:
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
        style: dict[str, Any] = {"loc": "outside lower center", "ncols": columns, "fontsize": 8}
        figure.legend([*entries.values()], [*entries], **style)
