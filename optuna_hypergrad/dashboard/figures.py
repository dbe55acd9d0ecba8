"""Schedules as files of a study: optuna-dashboard lists them, and shows CSV as a table.

Figures as optuna-dashboard shows them: in cards of 450 pixels height and a varying width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from optuna.artifacts import get_all_artifact_meta, upload_artifact
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.study import Study

from optuna_hypergrad.samplers.population.lineage import students
from optuna_hypergrad.schedules import Schedules
from optuna_hypergrad.visualization.charts.marks import Chart
from optuna_hypergrad.visualization.drawing.plotly import draw
from optuna_hypergrad.visualization.figures.convergence import convergence
from optuna_hypergrad.visualization.figures.hypergradients import hypergradients
from optuna_hypergrad.visualization.figures.hypervariance import hypervariance
from optuna_hypergrad.visualization.figures.lineage import lineage
from optuna_hypergrad.visualization.figures.mutations import mutations
from optuna_hypergrad.visualization.figures.population import population
from optuna_hypergrad.visualization.figures.schedules import schedules
from optuna_hypergrad.visualization.figures.step_sizes import step_sizes
from optuna_hypergrad.visualization.figures.trajectories import trajectories

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from optuna.artifacts._protocol import ArtifactStore

TYPES = {".csv": "text/csv", ".json": "application/json"}


def publish_files(study: Study, store: ArtifactStore, name: str, schedules: Schedules) -> None:
    """Upload schedules as CSV and JSON, unless the study has files of these names.

    The names tell the trial, whose schedules cannot change any more. A file counts if it is there:
    Optuna lists one before it is written, and an upload may fail.
    """
    texts = {".csv": schedules.to_csv(), ".json": schedules.to_json()}
    names = {name + suffix for suffix in texts}
    listed = [meta for meta in get_all_artifact_meta(study) if meta.filename in names]
    known = {meta.filename for meta in listed if _is_there(store, meta.artifact_id)}
    with TemporaryDirectory() as folder:
        for suffix, text in texts.items():
            path = Path(folder, name + suffix)
            if path.name not in known:
                path.write_text(text, encoding="utf-8")
                upload_artifact(
                    artifact_store=store,
                    file_path=str(path),
                    study_or_trial=study,
                    mimetype=TYPES[suffix],
                )


def _is_there(store: ArtifactStore, artifact_id: str) -> bool:
    try:
        with store.open_reader(artifact_id):
            return True
    except ArtifactNotFound:
        return False


# By the id under which a figure is stored. Those of searches are empty elsewhere.
CHARTS: dict[str, Callable[[Study], Chart]] = {
    "hg-convergence": convergence,
    "hg-schedules": schedules,
    "hg-hypergradients": hypergradients,
    "hg-step-sizes": step_sizes,
    "hg-hypervariance": hypervariance,
}
OF_POPULATIONS: dict[str, Callable[[Study], Chart]] = {
    "hg-lineage": lineage,
    "hg-population": population,
    "hg-mutations": mutations,
    "hg-trajectories": trajectories,
}

PANELS = 2  # that can be read in one card, one above the other
HEIGHT = 450  # of a card, in pixels
GAP = 0.5  # between panels, in which an axis and a title must find room
SAVES = 3  # of one figure, before whoever else is at it has the last word
PREFIX = "dashboard:plot_data:"  # where optuna-dashboard stores figures, in numbered pieces
# Plotly's own templates are stored with each figure and take longer than most of what is drawn.
LINES = {"gridcolor": "#ebf0f8", "zerolinecolor": "#ebf0f8", "automargin": True}
COLORS = {"plot_bgcolor": "white", "font_color": "#2a3f5f"}
TEMPLATE = {"layout": {**COLORS, "xaxis": LINES, "yaxis": LINES}}
LAYOUT = {
    "template": TEMPLATE,
    "autosize": True,
    "height": HEIGHT,
    "margin": {"l": 60, "r": 20, "t": 70, "b": 90},
    "legend": {"yref": "container", "y": 0, "yanchor": "bottom"},
}


def publish_figures(study: Study) -> None:
    """Store those figures that have something to show."""
    for id_, chart in {**CHARTS, **(OF_POPULATIONS if students(study) else {})}.items():
        for part, panels in _parts(id_, chart(study)):
            figure = draw(panels, GAP).update_layout(LAYOUT)
            figure.layout.width = None  # that of the card
            _save(study, part, figure)


def _parts(id_: str, chart: Chart) -> Iterator[tuple[str, Chart]]:
    """A chart without its empty panels, in pieces that fit into a card, with their ids."""
    panels = [panel for panel in chart.panels if panel.marks]
    count = -(-len(panels) // PANELS)
    for i in range(count):
        some = panels[i * PANELS : (i + 1) * PANELS]
        title = chart.title if count == 1 else f"{chart.title} ({i + 1} of {count})"
        yield f"{id_}-{i + 1}" if i else id_, replace(chart, title=title, panels=some, columns=1)


def _save(study: Study, id_: str, figure: go.Figure) -> None:
    """Store a figure unless it is there.

    The dashboard's pieces are written one by one, so two workers at once may leave a mixture,
    which no browser can read. Whoever finds one saves again.
    """
    from optuna_dashboard import save_plotly_graph_object

    text = figure.to_json()
    for _ in range(SAVES):
        if _stored(study, id_) == text:
            return
        save_plotly_graph_object(study, figure, graph_object_id=id_)


def _stored(study: Study, id_: str) -> str:
    """The figure's JSON as the dashboard reads it."""
    # Study attributes of the system have no public reader.
    attributes: dict[str, Any] = study._storage.get_study_system_attrs(study._study_id)
    prefix = f"{PREFIX}{id_}:"
    count = sum(key.startswith(prefix) for key in attributes)
    return "".join(attributes.get(f"{prefix}{i}", "") for i in range(count))
