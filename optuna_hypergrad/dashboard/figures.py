"""Figures as optuna-dashboard shows them: in cards 450 pixels high, of varying width."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from optuna.study import Study

from optuna_hypergrad.samplers.population.lineage import students
from optuna_hypergrad.visualization import figures
from optuna_hypergrad.visualization.charts import Chart
from optuna_hypergrad.visualization.plotly import draw

if TYPE_CHECKING:
    import plotly.graph_objects as go

# By the id of the stored figure. Those of searches are empty for other studies.
SEARCH_FIGURES: dict[str, Callable[[Study], Chart]] = {
    "hg-convergence": figures.convergence,
    "hg-arrays": figures.arrays,
    "hg-schedules": figures.schedules,
    "hg-hypergradients": figures.hypergradients,
    "hg-step-sizes": figures.step_sizes,
    "hg-hypervariance": figures.hypervariance,
    "hg-growth": figures.growth,
}
POPULATION_FIGURES: dict[str, Callable[[Study], Chart]] = {
    "hg-lineage": figures.lineage,
    "hg-population": figures.population,
    "hg-mutations": figures.mutations,
    "hg-trajectories": figures.trajectories,
}

MAX_PANELS = 2  # in one card, one above the other
HEIGHT = 450  # of a card, in pixels
GAP = 0.5  # between panels, with room for an axis and a title
MAX_SAVES = 3  # of one figure, while another worker saves it, too
PREFIX = "dashboard:plot_data:"  # where optuna-dashboard stores figures, in numbered pieces
# Plotly's own templates are stored with each figure, and are larger than most figures.
LINES = {"gridcolor": "#ebf0f8", "zerolinecolor": "#ebf0f8", "automargin": True}
COLORS = {"plot_bgcolor": "white", "font_color": "#2a3f5f"}
LAYOUT = {
    "template": {"layout": {**COLORS, "xaxis": LINES, "yaxis": LINES}},
    "autosize": True,
    "height": HEIGHT,
    "margin": {"l": 60, "r": 20, "t": 70, "b": 90},
    "legend": {"yref": "container", "y": 0, "yanchor": "bottom"},
}


def publish_figures(study: Study) -> None:
    """Store the figures that have something to show."""
    for id_, chart in {**SEARCH_FIGURES, **(POPULATION_FIGURES if students(study) else {})}.items():
        for part_id, part in _parts(id_, chart(study)):
            figure = draw(part, GAP).update_layout(LAYOUT)
            figure.layout.width = None  # that of the card
            _save(study, part_id, figure)


def _parts(id_: str, chart: Chart) -> Iterator[tuple[str, Chart]]:
    """A chart without empty panels, in parts that fit into a card, with their ids."""
    panels = [panel for panel in chart.panels if panel.marks]
    n_parts = -(-len(panels) // MAX_PANELS)
    for i in range(n_parts):
        chosen = panels[i * MAX_PANELS : (i + 1) * MAX_PANELS]
        title = chart.title if n_parts == 1 else f"{chart.title} ({i + 1} of {n_parts})"
        yield f"{id_}-{i + 1}" if i else id_, replace(chart, title=title, panels=chosen, columns=1)


def _save(study: Study, id_: str, figure: go.Figure) -> None:
    """Store a figure unless it is stored already.

    The dashboard writes the pieces of a figure one by one, so that two workers may leave a mixture,
    which no browser can read. A worker that finds one saves again.
    """
    from optuna_dashboard import save_plotly_graph_object

    text = figure.to_json()
    for _ in range(MAX_SAVES):
        if stored_figure(study, id_) == text:
            return
        save_plotly_graph_object(study, figure, graph_object_id=id_)


def stored_figure(study: Study, id_: str) -> str:
    """The JSON of a figure as the dashboard reads it; empty if there is none."""
    # Optuna has no public reader for a study's system attributes.
    attributes: dict[str, Any] = study._storage.get_study_system_attrs(study._study_id)
    prefix = f"{PREFIX}{id_}:"
    count = sum(key.startswith(prefix) for key in attributes)
    return "".join(attributes.get(f"{prefix}{i}", "") for i in range(count))
