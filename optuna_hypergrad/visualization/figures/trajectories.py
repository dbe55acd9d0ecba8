"""The paths of populations and of gradient searches through two hyperparameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from optuna.study import Study

from optuna_hypergrad.arguments import check_callable, check_name, lookup
from optuna_hypergrad.samplers.distributions import is_numeric
from optuna_hypergrad.samplers.gradient.history import OuterStep
from optuna_hypergrad.visualization import charts
from optuna_hypergrad.visualization.charts import Line, Points, colors, genealogy, searches
from optuna_hypergrad.visualization.charts.genealogy import Genealogy, Point
from optuna_hypergrad.visualization.charts.parameters import Parameter, parameters_of

TITLE = "Trajectories"
MAX_SEGMENTS = MAX_STEPS = 2000  # figures are stored as text
MAX_NAMED = 8  # searches with a legend entry each
GRID = 80  # points of a surface along each axis
DASHES: tuple[charts.Dash, ...] = ("solid", "dash", "dot")  # by turns, once all colours are used

STYLES: dict[str, tuple[str, charts.Symbol, float]] = {
    "birth": (colors.BLUE, "circle", 4.0),
    "clone, mutated": (colors.ORANGE, "circle", 4.0),
    "best": (colors.RED, "star", 12.0),
    "start": (colors.BLUE, "open circle", 6.0),
    "not accepted": (colors.RED, "cross", 6.0),
    "best of the searches": (colors.RED, "star", 12.0),
    "trial": (colors.BLUE, "circle", 4.0),
    "recommended": (colors.RED, "star", 12.0),
}


class Plane(NamedTuple):
    """The two hyperparameters of the figure."""

    x: Parameter
    y: Parameter

    def point(self, params: Mapping[str, Any]) -> Point:
        """The position of a segment or an outer step."""
        return self.x.position(params), self.y.position(params)

    def points(
        self, style: str, found: Iterable[tuple[Mapping[str, Any], str]], name: str | None = None
    ) -> list[charts.Mark]:
        """Points at parameters with a hover text each; none if there are none.

        The legend has the name of the style unless ``name`` is given.
        """
        rows = [(*self.point(params), text) for params, text in found]
        if not rows:
            return []
        x, y, texts = zip(*rows, strict=True)
        color, symbol, size = STYLES[style]
        return [Points(x, y, color, name or style, symbol, size, texts=texts)]


def trajectories(
    study: Study,
    x: str | None = None,
    y: str | None = None,
    surface: Callable[[float, float], float] | None = None,
) -> charts.Chart:
    """Plot the paths of a population, or of gradient searches, through two hyperparameters.

    The path of a member leads through the first and last values of its segments; a dotted line
    leads from a parent to its clone. The path of a search leads through its accepted outer steps;
    crosses mark steps that were not accepted. The trials of a Gaussian process are points.

    Args:
        study: A study. Without finished trials of a ``PopulationSampler`` or a
            ``GradientSampler``, the figure says so.
        x: The parameter on the horizontal axis; by default the first numeric one.
        y: The parameter on the vertical axis; by default the next numeric one.
        surface: The loss as a function of both parameters, drawn in grey behind the paths. It is
            called at 80 × 80 points.

    Raises:
        ValueError: If ``study`` is not a study or has several objectives, if there is no parameter
            ``x`` or ``y``, or if ``surface`` is not callable.
        StoredDataError: If the stored data is damaged.

    Reference:
        "Learning to Mutate with Hypergradient Guided Population" (HPM), the trajectories on
        synthetic functions.

    Example:
        >>> import optuna
        >>> from optuna_hypergrad import PopulationSampler, report_hypergradient
        >>> from optuna_hypergrad.visualization import plot_trajectories
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> def objective(trial):
        ...     x, y = trial.suggest_float("x", -1, 1), trial.suggest_float("y", -1, 1)
        ...     report_hypergradient(trial, {"x": 2 * x, "y": 8 * y})
        ...     return x**2 + 4 * y**2
        >>> study = optuna.create_study(sampler=PopulationSampler(seed=0, population_size=4))
        >>> study.optimize(objective, n_trials=40)
        >>> figure = plot_trajectories(study, surface=lambda x, y: x**2 + 4 * y**2)
        >>> figure.layout.xaxis.title.text, figure.data[0].type
        ('x', 'heatmap')
    """
    for argument, name in (("x", x), ("y", y)):
        if name is not None:
            check_name(argument, name)
    if surface is not None:
        check_callable("surface", surface)
    tree, steps = (
        Genealogy.of(study),
        sorted(searches.read_steps(study), key=lambda step: step.trials),
    )
    numbers = [*tree.segments, *(number for step in steps for number in step.trials)]
    if not numbers:
        text = "No trial of a PopulationSampler or a GradientSampler has finished yet."
        return charts.message(TITLE, text)
    trials = study.get_trials(deepcopy=False)
    plane = _plane(parameters_of(trials[number] for number in numbers), x, y)
    if plane is None:
        text = "There are no two numeric parameters with more than one possible value."
        return charts.message(TITLE, text)
    tree = tree.latest(MAX_SEGMENTS)
    title = tree.title(TITLE)
    if len(steps) > MAX_STEPS:
        title += f": the latest {MAX_STEPS:,} of {len(steps):,} steps"
    marks = [
        *([] if surface is None else _surface(surface, plane)),
        *(_population(tree, plane) if tree.shown else []),
        *_searches(steps[-MAX_STEPS:], plane, searches.best_of(study, steps)),
    ]
    axes = plane.x.axis(full_range=True), plane.y.axis(full_range=True)
    return charts.Chart(title, [charts.Panel("", *axes, marks)], size=(6.5, 5.5))


def _plane(known: Mapping[str, Parameter], x: str | None, y: str | None) -> Plane | None:
    """The given parameters, else the first numeric ones; None if these are fewer than two."""
    given = [
        None if x is None else lookup("x", x, known),
        None if y is None else lookup("y", y, known),
    ]
    others = (p for p in known.values() if is_numeric(p.distribution) and p not in given)
    axes = [next(others, None) if one is None else one for one in given]
    return Plane(axes[0], axes[1]) if axes[0] is not None and axes[1] is not None else None


def _surface(loss: Callable[[float, float], float], plane: Plane) -> list[charts.Mark]:
    """The surface; none where the loss is nowhere finite."""
    grids = []
    for parameter in plane:
        spaced = np.geomspace if parameter.is_log else np.linspace
        grids.append([float(value) for value in spaced(*parameter.range, GRID)])
    xs, ys = grids
    heights = np.array([[float(loss(x, y)) for x in xs] for y in ys])
    heights[~np.isfinite(heights)] = math.nan
    return [] if np.isnan(heights).all() else [charts.Surface(xs, ys, heights.tolist())]


def _population(tree: Genealogy, plane: Plane) -> list[charts.Mark]:
    marks = [
        *_clones(tree, plane, colors.ORANGE, "cloned", "extinct", "surviving"),
        *_clones(tree, plane, genealogy.COLORS["best"], "cloned in the best lineage", "best"),
    ]
    for kind in genealogy.KINDS:
        paths = [path for run in tree.runs(kind) if len(path := _path(run, plane)) > 1]
        # Not grey, which is the colour of the surface.
        marks += genealogy.lines(paths, kind, colors.SKY if kind == "extinct" else None)
    pairs = [*tree.clones(*genealogy.KINDS)]
    births = [(s.params, genealogy.describe_segment(s)) for s in tree.shown if s.parent is None]
    clones = [(clone.params, genealogy.describe_clone(parent, clone)) for parent, clone in pairs]
    best = [] if tree.best is None else [(tree.best.ended, genealogy.describe_segment(tree.best))]
    marks += plane.points("birth", births)
    marks += plane.points("clone, mutated", clones)
    return marks + plane.points("best", best)


def _clones(
    tree: Genealogy, plane: Plane, color: str, name: str, *kinds: genealogy.Kind
) -> list[charts.Mark]:
    """Lines from the last values of parents to the first values of their clones."""
    pairs = tree.clones(*kinds)
    jumps = [(plane.point(parent.ended), plane.point(clone.params)) for parent, clone in pairs]
    return [Line(*genealogy.polyline(jumps), color, name, "dot", 1.0, 0.9)] if jumps else []


def _path(run: genealogy.Run, plane: Plane) -> list[Point]:
    """The first and last values of each segment, without repetitions."""
    path = [] if run.parent is None else [plane.point(run.parent.ended)]
    for segment in run.segments:
        path += [plane.point(segment.params), plane.point(segment.ended)]
    return [point for i, point in enumerate(path) if i == 0 or point != path[i - 1]]


def _searches(
    steps: Sequence[OuterStep], plane: Plane, best: OuterStep | None
) -> list[charts.Mark]:
    """The accepted steps of each search, joined, or the trials; the others as crosses."""

    def points(style: str, some: Sequence[OuterStep], name: str | None = None) -> list[charts.Mark]:
        found = [(step.params, searches.describe_step(step)) for step in some]
        return plane.points(style, found, name)

    marks: list[charts.Mark] = []
    is_of_trials = bool(steps) and isinstance(steps[0], searches.ShownTrial)
    if is_of_trials:
        marks += points("trial", [step for step in steps if step.value is not None])
    chains = [] if is_of_trials else sorted({step.chain for step in steps})
    for i, chain in enumerate(chains):
        path = [s for s in steps if s.chain == chain and s.verdict == "accepted"]
        if path:
            x, y = zip(*(plane.point(step.params) for step in path), strict=True)
            name = f"search {chain}" if len(chains) <= MAX_NAMED else "searches"
            dash = DASHES[i // len(colors.CYCLE) % len(DASHES)]
            texts = [searches.describe_step(step) for step in path]
            line = Line(x, y, colors.cycle(i), name, dash, texts=texts)
            marks += [line, Points(x, y, line.color, size=3.0), *points("start", path[:1])]
    rejected = [step for step in steps if step.status in searches.NOT_ACCEPTED]
    if rejected:
        marks += points("not accepted", rejected, searches.describe_statuses(rejected))
    style = "recommended" if is_of_trials else "best of the searches"
    return marks + points(style, [] if best is None else [best])
