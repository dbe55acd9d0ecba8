"""The paths of students and searches through two hyperparameters."""

from __future__ import annotations

from optuna.study import Study

from optuna_hypergrad.arguments import check_callable, check_name
from optuna_hypergrad.samplers.history import outer_steps
from optuna_hypergrad.samplers.studies import maximizes
from optuna_hypergrad.visualization.charts import colors
from optuna_hypergrad.visualization.charts.descent import (
    COLORS,
    KINDS,
    NAMES,
    WIDTHS,
    Descent,
    Kind,
    Point,
    Run,
    joined,
    told,
    told_clone,
)
from optuna_hypergrad.visualization.charts.marks import (
    Chart,
    Line,
    Mark,
    Panel,
    message,
)
from optuna_hypergrad.visualization.charts.parameters import parameters_of
from optuna_hypergrad.visualization.charts.plane import Height, Plane, plane_of, surface_over
from optuna_hypergrad.visualization.charts.search_paths import search_paths
from optuna_hypergrad.visualization.charts.searches import best_step

TITLE = "Trajectories"
MOST = 2000  # segments: figures are stored as text, and sent

# Paths are drawn on a grey surface: no grey among them.
PATHS: dict[Kind, str] = {**COLORS, "died out": colors.SKY}


def trajectories(
    study: Study, x: str | None = None, y: str | None = None, surface: Height | None = None
) -> Chart:
    """See ``plot_trajectories``."""
    for argument, name in (("x", x), ("y", y)):
        if name is not None:
            check_name(argument, name)
    if surface is not None:
        check_callable("surface", surface)
    descent, steps = Descent.of(study), sorted(outer_steps(study), key=lambda step: step.trials)
    numbers = [*descent.all, *(number for step in steps for number in step.trials)]
    if not numbers:
        return message(TITLE, "No student and no search has finished a trial yet.")
    trials = study.get_trials(deepcopy=False)
    plane = plane_of(parameters_of(trials[number] for number in numbers), x, y)
    if plane is None:
        return message(TITLE, "There are no two numeric hyperparameters that leave a choice.")
    shown = descent.latest(MOST)
    marks = [] if surface is None else surface_over(surface, plane)
    marks += _students(shown, plane) if shown.shown else []
    marks += search_paths(steps[-MOST:], plane, best_step(steps, maximizes(study)))
    title = shown.titled(TITLE)
    title += f": the latest {MOST:,} of {len(steps):,} steps" if len(steps) > MOST else ""
    panel = Panel("", plane.x.axis(whole=True), plane.y.axis(whole=True), marks)
    return Chart(title, [panel], size=(6.5, 5.5))


def _students(descent: Descent, plane: Plane) -> list[Mark]:
    marks = [
        *_jumps(descent, plane, colors.ORANGE, "cloned", "died out", "lives on"),
        *_jumps(descent, plane, COLORS["best"], "cloned, to the best", "best"),
    ]
    for kind in KINDS:
        paths = [path for run in descent.runs(kind) if len(path := _path(run, plane)) > 1]
        if paths:
            marks.append(Line(*joined(paths), PATHS[kind], NAMES[kind], width=WIDTHS[kind]))
    cloned = [*descent.clones(*KINDS)]
    births = [s for s in descent.shown if s.parent is None]
    marks += plane.points("birth", [(s.params, told(s)) for s in births])
    marks += plane.points(
        "clone, mutated", [(pair[1].params, told_clone(*pair)) for pair in cloned]
    )
    best = descent.best
    return marks if best is None else marks + plane.points("best", [(best.ended, told(best))])


def _jumps(descent: Descent, plane: Plane, color: str, name: str, *kinds: Kind) -> list[Mark]:
    """From what parents ended with to what their clones began with."""
    pairs = descent.clones(*kinds)
    jumps = [(plane.at(parent.ended), plane.at(clone.params)) for parent, clone in pairs]
    return [Line(*joined(jumps), color, name, "dot", 1.0, 0.9)] if jumps else []


def _path(run: Run, plane: Plane) -> list[Point]:
    """What each segment began with, and ended with where that is elsewhere."""
    path = [] if run.before is None else [plane.at(run.before.ended)]
    for segment in run.segments:
        path += [plane.at(segment.params), plane.at(segment.ended)]
    return [point for i, point in enumerate(path) if i == 0 or point != path[i - 1]]
