"""Two hyperparameters as the axes of one panel, and a surface over them.

The paths of gradient searches through two hyperparameters.

The paths of students and searches through two hyperparameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from optuna.study import Study

from optuna_hypergrad.arguments import check_callable, check_name, lookup
from optuna_hypergrad.samplers.distributions import is_numeric
from optuna_hypergrad.samplers.gradient.history import OuterStep, outer_steps
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
    describe_clone,
    describe_segment,
    joined,
)
from optuna_hypergrad.visualization.charts.marks import (
    Chart,
    Dash,
    Line,
    Mark,
    Panel,
    Points,
    Surface,
    Symbol,
    message,
)
from optuna_hypergrad.visualization.charts.parameters import Parameter, parameters_of
from optuna_hypergrad.visualization.charts.searches import (
    LEFT,
    best_step,
    describe_left,
    describe_step,
)

GRID = 80  # points of a surface along each axis

STYLES: dict[str, tuple[str, Symbol, float]] = {
    "birth": (colors.BLUE, "circle", 4.0),
    "clone, mutated": (colors.ORANGE, "circle", 4.0),
    "best": (colors.RED, "star", 12.0),
    "start": (colors.BLUE, "open circle", 6.0),
    "came back from": (colors.RED, "cross", 6.0),
    "best of the searches": (colors.RED, "star", 12.0),
}

Height = Callable[[float, float], float]


class Plane(NamedTuple):
    """The two hyperparameters of a figure."""

    x: Parameter
    y: Parameter

    def at(self, values: Mapping[str, Any]) -> Point:
        """Where a student or a search is."""
        return self.x.at(values), self.y.at(values)

    def points(
        self, style: str, of: Iterable[tuple[Mapping[str, Any], str]], name: str | None = None
    ) -> list[Mark]:
        """Points of one style where there are some, each with what is said of it.

        The legend names them by their style, unless ``name`` is given.
        """
        found = [(*self.at(values), text) for values, text in of]
        x, y, texts = zip(*found, strict=True) if found else ((), (), ())
        color, symbol, size = STYLES[style]
        return [Points(x, y, color, name or style, symbol, size, texts=texts)] if found else []


def plane_of(known: Mapping[str, Parameter], x: str | None, y: str | None) -> Plane | None:
    """The hyperparameters that were named, else the first numeric ones."""
    wanted = [
        None if x is None else lookup("x", x, known),
        None if y is None else lookup("y", y, known),
    ]
    free = (p for p in known.values() if is_numeric(p.distribution) and p not in wanted)
    axes = [next(free, None) if one is None else one for one in wanted]
    return Plane(axes[0], axes[1]) if axes[0] is not None and axes[1] is not None else None


def surface_over(height: Height, plane: Plane) -> list[Mark]:
    """The surface; nothing where it is nowhere finite."""
    xs, ys = (_grid(parameter) for parameter in plane)
    heights = np.array([[float(height(x, y)) for x in xs] for y in ys])
    heights[~np.isfinite(heights)] = math.nan
    return [] if np.isnan(heights).all() else [Surface(xs, ys, heights.tolist())]


def _grid(parameter: Parameter) -> list[float]:
    low, high = parameter.range
    spaced = np.geomspace if parameter.is_log else np.linspace
    return [float(value) for value in spaced(low, high, GRID)]


NAMED = 8  # searches; the legend of more would be longer than the figure is high
DASHES: tuple[Dash, ...] = ("solid", "dash", "dot")  # once all colours are taken


def search_paths(steps: Sequence[OuterStep], plane: Plane, best: OuterStep | None) -> list[Mark]:
    """The accepted steps of each search, joined; those that it came back from as crosses."""
    marks: list[Mark] = []
    chains = sorted({step.chain for step in steps})
    for i, chain in enumerate(chains):
        name = f"search {chain}" if len(chains) <= NAMED else "searches"
        path = [s for s in steps if s.chain == chain and s.verdict == "accepted"]
        dash = DASHES[i // len(colors.CYCLE) % len(DASHES)]
        marks += _search_path(path, plane, colors.cycled(i), dash, name)
    if back := [step for step in steps if step.status in LEFT]:
        found = [(step.params, describe_step(step)) for step in back]
        marks += plane.points("came back from", found, describe_left(back))
    best_of_all = [] if best is None else [(best.params, describe_step(best))]
    return marks + plane.points("best of the searches", best_of_all)


def _search_path(
    path: Sequence[OuterStep], plane: Plane, color: str, dash: Dash, name: str
) -> list[Mark]:
    if not path:
        return []
    x, y = zip(*(plane.at(step.params) for step in path), strict=True)
    line = Line(x, y, color, name, dash, texts=[describe_step(step) for step in path])
    start = plane.points("start", [(path[0].params, describe_step(path[0]))])
    return [line, Points(x, y, color, size=3.0), *start]


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
    marks += plane.points("birth", [(s.params, describe_segment(s)) for s in births])
    marks += plane.points(
        "clone, mutated", [(pair[1].params, describe_clone(*pair)) for pair in cloned]
    )
    best = descent.best
    return (
        marks
        if best is None
        else marks + plane.points("best", [(best.ended, describe_segment(best))])
    )


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
