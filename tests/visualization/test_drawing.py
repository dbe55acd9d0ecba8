"""Both libraries draw every kind of mark, axis and scale."""

import inspect
import io
import math
import pickle
from collections.abc import Iterator
from typing import Any

import matplotlib
import plotly.graph_objects as go
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex

from optuna_hypergrad import visualization
from optuna_hypergrad.visualization import matplotlib as with_matplotlib
from optuna_hypergrad.visualization import plotly as with_plotly
from optuna_hypergrad.visualization.charts import (
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
    Surface,
    colors,
    message,
)

matplotlib.use("Agg")

SYMBOLS = ["circle", "open circle", "cross", "star", "tick", "triangle", "square"]


@pytest.fixture(autouse=True)
def no_figure_stays_open() -> Iterator[None]:
    yield
    plt.close("all")


def of(*marks: Mark, x: Axis | None = None, y: Axis | None = None, **options: Any) -> Chart:
    return Chart("title", [Panel("panel", x or Axis("x"), y or Axis("y"), marks)], **options)


def plotly(chart: Chart) -> go.Figure:
    figure = with_plotly.draw(chart)
    figure.to_json()
    return figure


def axes(chart: Chart) -> Any:
    """The first panel, drawn to the last pixel."""
    figure = with_matplotlib.draw(chart)
    figure.canvas.draw()
    return figure.axes[0]


class TestLines:
    line = Line([0, 1, 2], [1.0, math.nan, 3.0], colors.BLUE, "loss", "dot", 3.0, 0.5, True)

    def test_in_plotly_a_nan_is_a_gap(self) -> None:
        (trace,) = plotly(of(self.line)).data
        assert trace.y == (1.0, None, 3.0)
        assert (trace.line.color, trace.line.dash, trace.line.shape) == (colors.BLUE, "dot", "hv")
        assert (trace.line.width, trace.opacity) == (4.0, 0.5)  # in pixels

    def test_in_matplotlib_a_nan_is_a_gap(self) -> None:
        (line,) = axes(of(self.line)).lines
        assert math.isnan(line.get_ydata()[1])
        assert (line.get_color(), line.get_linestyle()) == (colors.BLUE, ":")
        assert (line.get_linewidth(), line.get_drawstyle()) == (3.0, "steps-post")

    def test_one_text_is_for_all_points(self) -> None:
        one, each = (Line([0, 1], [0, 1], colors.BLUE, texts=t) for t in (["a"], ["b", "c"]))
        texts = [trace.text for trace in plotly(of(one, each)).data]
        assert texts == ["a", ("b", "c")]


@pytest.mark.parametrize("symbol", SYMBOLS)
@pytest.mark.parametrize("color", [colors.RED, [colors.RED, colors.GREEN]], ids=["one", "each"])
def test_points(symbol: Any, color: Any) -> None:
    points = Points([0, 1], [2, 3], color, "trial", symbol, 6.0, 0.5, ["first", "second"])
    (trace,) = plotly(of(points)).data
    assert (trace.marker.size, trace.text) == (8.0, ("first", "second"))
    assert trace.marker.color == (color if isinstance(color, str) else tuple(color))
    (drawn,) = axes(of(points)).collections
    assert drawn.get_offsets().tolist() == [[0, 2], [1, 3]]
    shown = drawn.get_edgecolors() if symbol == "open circle" else drawn.get_facecolors()
    assert to_hex(shown[0]).upper() == colors.RED


def test_a_band_lies_between_its_lines() -> None:
    band = Band([0, 1], [1.0, 2.0], [3.0, 5.0], colors.GREEN, "range")
    (trace,) = plotly(of(band)).data
    assert (trace.x, trace.y) == ((0, 1, 1, 0), (1.0, 2.0, 5.0, 3.0))
    (drawn,) = axes(of(band)).collections
    corners = drawn.get_paths()[0].get_extents()
    assert (corners.y0, corners.y1) == (1.0, 5.0)


def test_bars_stand_on_zero() -> None:
    bars = Bars([0, 1], [2.0, 3.0], colors.ORANGE, "noise", 0.5, ["two", "three"])
    (trace,) = plotly(of(bars)).data
    assert (trace.y, trace.width, trace.text) == ((2.0, 3.0), 0.5, ("two", "three"))
    drawn = [(bar.get_y(), bar.get_height(), bar.get_width()) for bar in axes(of(bars)).patches]
    assert drawn == [(0, 2.0, 0.5), (0, 3.0, 0.5)]


def test_a_surface_is_grey() -> None:
    surface = Surface([0, 1], [0, 1, 2], [[1, 2], [3, 4], [5, 6]])
    (trace,) = plotly(of(surface)).data
    assert [*trace.z] == [[1, 2], [3, 4], [5, 6]]
    (drawn,) = axes(of(surface)).collections
    assert drawn.get_array().shape == (3, 2)


def test_cells_are_coloured_around_zero_and_may_be_empty() -> None:
    heat = Heat([0, 1, 2], [0, 1], [[-1.0, math.nan]])
    (trace,) = plotly(of(heat)).data
    assert [*trace.z] == [[-1.0, None]]
    assert (trace.zmin, trace.zmax, trace.colorscale[5][1]) == (-1, 1, "#ffffff")
    (drawn,) = axes(of(heat)).collections
    assert drawn.get_clim() == (-1, 1)
    assert to_hex(drawn.cmap(0.0)).upper() == colors.BLUE
    assert to_hex(drawn.cmap(1.0)).upper() == colors.RED


class TestAxes:
    def test_decades_have_ticks_where_there_are_many(self) -> None:
        chart = of(Line([0, 1], [5e-5, 3.0], colors.BLUE), y=Axis("γ", is_log=True))
        axis = plotly(chart).layout.yaxis
        expected = ["10⁻⁴", "10⁻³", "10⁻²", "10⁻¹", "1"]
        assert (axis.type, [*axis.ticktext]) == ("log", expected)
        labels = [text.get_text() for text in axes(chart).get_yticklabels()]
        assert labels == expected

    def test_a_logarithmic_axis_of_one_value_or_none_has_an_extent(self) -> None:
        for y in ([0.05, 0.05], [-1.0, 0.0], []):
            chart = of(Points(range(len(y)), y, colors.BLUE), y=Axis("γ", is_log=True))
            low, high = plotly(chart).layout.yaxis.range
            assert low < high

    @pytest.mark.parametrize("last", [0, 1, 3])
    def test_integers_have_ticks_at_integers(self, last: int) -> None:
        numbers = [*range(last + 1)]
        chart = of(Points(numbers, numbers, colors.BLUE), x=Axis("trial", is_integer=True))
        assert plotly(chart).layout.xaxis.dtick == 1
        assert all(float(tick).is_integer() for tick in axes(chart).get_xticks())

    def test_names_instead_of_numbers(self) -> None:
        ticks = {0.0: "a name that is rather long", 1.0: "another name that is long, too", 2.0: "c"}
        chart = of(Bars([0, 1, 2], [1, 1, 1], colors.BLUE), x=Axis("", ticks=ticks))
        assert [*plotly(chart).layout.xaxis.ticktext] == [*ticks.values()]
        labels = axes(chart).get_xticklabels()
        assert [(t.get_text(), t.get_rotation()) for t in labels] == [
            (n, 30) for n in ticks.values()
        ]

    def test_a_range_is_in_the_unit_of_the_axis(self) -> None:
        log = Axis("γ", is_log=True, range=(0.01, 100.0))
        chart = of(Points([0], [1], colors.BLUE), x=Axis("x", range=(-1, 1)), y=log)
        layout = plotly(chart).layout
        assert (layout.xaxis.range, layout.yaxis.range) == ((-1, 1), (-2, 2))
        drawn = axes(chart)
        assert (drawn.get_xlim(), drawn.get_ylim()) == ((-1, 1), (0.01, 100.0))


def test_a_name_is_in_the_legend_once() -> None:
    lines = [Line([0, 1], [0, i], colors.cycle(i), "window") for i in range(3)]
    panels = [Panel(str(i), Axis(), Axis(), lines) for i in range(3)]
    chart = Chart("title", panels, columns=2)
    traces = plotly(chart).data
    assert [trace.showlegend for trace in traces] == [True] + [False] * 8
    assert {trace.legendgroup for trace in traces} == {"window"}
    figure = with_matplotlib.draw(chart)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["window"]
    assert [axis.axison for axis in figure.axes] == [True, True, True, False]  # two rows of two


@pytest.mark.parametrize("is_diverging", [True, False])
def test_a_scale_is_a_bar_of_colours(is_diverging: bool) -> None:
    ticks = {-1.0: "below\nzero", 1.0: "above"} if is_diverging else None
    scale = Scale("step", -1, 1, is_diverging, ticks, is_integer=not is_diverging)
    points = Points([0], [0], colors.BLUE)
    chart = Chart("title", [Panel("panel", Axis(), Axis(), [points], scale=scale)])
    bar = plotly(chart).data[-1].marker.colorbar
    assert bar.title.text == "step"
    assert bar.ticktext == (("below<br>zero", "above") if is_diverging else None)
    drawn = with_matplotlib.draw(chart)
    drawn.canvas.draw()
    assert drawn.axes[-1].get_ylabel() == "step"


def test_a_message_is_shown_without_axes() -> None:
    chart = message("title", "nothing\nyet")
    figure = plotly(chart)
    assert [one.text for one in figure.layout.annotations if one.text] == ["nothing<br>yet"]
    assert not figure.layout.xaxis.visible
    drawn = axes(chart)
    assert [text.get_text() for text in drawn.texts] == ["nothing\nyet"]
    assert not drawn.axison


def test_numbers_are_short_and_floats_of_numpy_are_plain() -> None:
    import numpy as np

    line = Line(np.arange(2), np.array([1 / 3, np.inf]), colors.BLUE)  # type: ignore[arg-type]
    (trace,) = plotly(of(line)).data
    assert trace.y == (0.333333, None)
    assert type(trace.x[0]) is float


def test_formulas_and_html_in_names_are_shown_as_text() -> None:
    odd = r"_$\undefined$<b>"
    line = Line([0.0, 1.0], [0.0, 1.0], "#000000", name=odd, texts=[odd, odd])
    axis = Axis(odd, ticks={0.0: odd})
    panel = Panel(odd, axis, axis, [line], scale=Scale(odd, 0.0, 1.0))
    chart = Chart(odd, [panel])
    figure = with_matplotlib.draw(chart)
    figure.savefig(io.BytesIO())  # where a formula would be typeset
    (legend,) = figure.legends
    assert legend.get_texts()[0].get_text().strip() == odd.replace("$", r"\$")
    drawn = with_plotly.draw(chart)
    assert drawn.data[0].name == r"_$\undefined$&lt;b&gt;" == drawn.layout.title.text


def test_plot_functions_have_a_name_a_signature_and_a_module() -> None:
    for module, figure in ((visualization, "'go.Figure'"), (with_matplotlib, "'Figure'")):
        function = module.plot_lineage
        assert pickle.loads(pickle.dumps(function)) is function
        assert str(inspect.signature(function)) == f"(study: 'Study') -> {figure}"
        assert (function.__module__, function.__qualname__) == (module.__name__, "plot_lineage")
