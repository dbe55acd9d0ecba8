"""The hyperparameters of all students over generations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from optuna.study import Study

from optuna_hypergrad.arguments import check_names, lookup
from optuna_hypergrad.samplers.population.lineage import SegmentRecord
from optuna_hypergrad.visualization.charts import colors
from optuna_hypergrad.visualization.charts.descent import (
    COLORS,
    KINDS,
    NAMES,
    NOBODY,
    WIDTHS,
    Descent,
    Point,
    Run,
    describe_clone,
    describe_segment,
    joined,
)
from optuna_hypergrad.visualization.charts.marks import (
    Axis,
    Chart,
    Line,
    Mark,
    Panel,
    Points,
    message,
)
from optuna_hypergrad.visualization.charts.parameters import Parameter, parameters_of

TITLE = "Population"
MOST = 4000  # segments in all panels: figures are stored as text, and sent
FEW = 100  # clones of whom more is said where the mouse is
PANELS = 12  # unless more are asked for


def population(study: Study, names: Sequence[str] | None = None) -> Chart:
    """See ``plot_population``."""
    check_names("names", names)
    descent = Descent.of(study)
    if not descent.shown:
        return message(TITLE, NOBODY)
    trials = study.get_trials(deepcopy=False)
    known = parameters_of(trials[student.trial] for student in descent.shown)
    if names is not None:
        known = {name: lookup("names", name, known) for name in names}
    if not known:
        return message(TITLE, "The students have no parameters that leave a choice.")
    drawn = [*known.values()][: PANELS if names is None else len(known)]
    descent = descent.latest(MOST // len(drawn))
    title = descent.titled(TITLE)
    if len(drawn) < len(known):
        title += f"; {len(drawn)} of {len(known)} parameters"
    panels = [_panel(descent, parameter) for parameter in drawn]
    return Chart(title, panels, columns=min(2, len(panels)), size=(6.0, 3.2))


def _panel(descent: Descent, parameter: Parameter) -> Panel:
    marks: list[Mark] = []
    jumps = [_jump(*pair, parameter) for pair in descent.clones("best")]
    if jumps:
        marks.append(Line(*joined(jumps), COLORS["best"], dash="dot", width=1.0))
    for kind in KINDS:
        paths = [_path(run, parameter) for run in descent.runs(kind)]
        if paths:
            x, y = joined(paths)
            marks.append(Line(x, y, COLORS[kind], NAMES[kind], width=WIDTHS[kind]))
    marks += [*_clones(descent, parameter), *_best(descent, parameter)]
    return Panel("", Axis("generation", is_integer=True), parameter.axis(), marks)


def _clones(descent: Descent, parameter: Parameter) -> Iterator[Mark]:
    """What they began with."""
    clones = [*descent.clones(*KINDS)]
    if clones:
        x = [clone.generation for _, clone in clones]
        y = [parameter.at(clone.params) for _, clone in clones]
        texts = [describe_clone(*pair) for pair in clones] if len(clones) <= FEW else []
        yield Points(x, y, colors.ORANGE, "clone, mutated", size=3, texts=texts)


def _best(descent: Descent, parameter: Parameter) -> Iterator[Mark]:
    """Where the best student was at its best, where its line ends."""
    best = descent.best
    if best is not None and best.generation >= descent.first:
        at = [best.generation + 1], [parameter.at(best.ended)]
        yield Points(*at, colors.RED, "best", "star", size=10, texts=[describe_segment(best)])


def _jump(parent: SegmentRecord, clone: SegmentRecord, parameter: Parameter) -> list[Point]:
    """From what a parent ended with to what its clone began with."""
    ended = parent.generation + 1, parameter.at(parent.ended)
    return [ended, (clone.generation, parameter.at(clone.params))]


def _path(run: Run, parameter: Parameter) -> list[Point]:
    """What each segment began with, and ended with: it lasts from its generation to the next."""
    path: list[Point] = []
    if run.before is not None:
        path.append((run.before.generation + 1, parameter.at(run.before.ended)))
    for segment in run.segments:
        path.append((segment.generation, parameter.at(segment.params)))
        path.append((segment.generation + 1, parameter.at(segment.ended)))
    return path
