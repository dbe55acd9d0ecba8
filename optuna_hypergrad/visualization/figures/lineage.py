"""The phylogenetic tree of a population."""

from __future__ import annotations

import math
from collections import Counter

from optuna.study import Study

from optuna_hypergrad.samplers.population.lineage import SegmentRecord
from optuna_hypergrad.visualization import charts
from optuna_hypergrad.visualization.charts import Axis, Points, colors, genealogy
from optuna_hypergrad.visualization.charts.genealogy import Genealogy

TITLE = "Lineage"
MAX_SEGMENTS = 2000  # more cannot be told apart
GAP = 1.0  # between the rows of members and those of explorers

STYLES: dict[str, tuple[str, charts.Symbol, float]] = {
    "": (colors.GREY, "circle", 1.5),  # segments that went on from their own member's
    "birth": (colors.BLACK, "open circle", 4.0),
    "clone, mutated": (colors.ORANGE, "circle", 4.0),
    "pruned or failed": (colors.RED, "cross", 4.0),
    "best": (colors.RED, "star", 10.0),
}


def lineage(study: Study) -> charts.Chart:
    """Plot the phylogenetic tree of a population.

    Each member has a row, from left to right; a slanted line leads from a parent to its clone, in
    the row of the member that it replaced. Black is the lineage of the best segment, blue are the
    lineages of all members of the last generation, and grey lineages died out. Explorers, which run
    while all members are taken, have rows below. Of more than 2,000 segments, the latest
    generations are shown.

    Args:
        study: A study. Without finished trials of a ``PopulationSampler``, the figure says so.

    Raises:
        ValueError: If ``study`` is not a study or has several objectives.
        StoredDataError: If the stored data is damaged.

    Reference:
        "Population Based Training of Neural Networks", the figure of phylogenetic trees.

    Example:
        >>> import optuna
        >>> from optuna_hypergrad import PopulationSampler
        >>> from optuna_hypergrad.visualization import plot_lineage
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> study = optuna.create_study(sampler=PopulationSampler(seed=0, population_size=4))
        >>> study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=40)
        >>> plot_lineage(study).layout.title.text
        'Lineage'
    """
    tree = Genealogy.of(study).latest(MAX_SEGMENTS)
    if not tree.shown:
        return charts.message(TITLE, genealogy.NO_SEGMENTS)
    n_members = 1 + max((s.member for s in tree.shown if s.member is not None), default=-1)
    rows = _rows(tree.shown, n_members)
    marks: list[charts.Mark] = [*_lines(tree, rows), *_points(tree, rows)]
    members = _member_axis(rows, n_members)
    panel = charts.Panel("", genealogy.GENERATIONS, members, marks)
    height = 0.17 * (max(rows.values()) + 1)
    return charts.Chart(tree.title(TITLE), [panel], size=(9.0, min(max(height, 2.5), 9.0)))


def _rows(segments: list[SegmentRecord], n_members: int) -> dict[int, float]:
    """The row of each segment by trial number: its member, or below all members for explorers.

    Where several trials completed the same segment of a member, the first counts, and others are
    shown among the explorers.
    """
    rows: dict[int, float] = {}
    completed: set[tuple[int, int]] = set()
    n_explorers: Counter[int] = Counter()  # by generation
    for segment in segments:
        place = (-1 if segment.member is None else segment.member, segment.generation)
        if segment.member is not None and place not in completed:
            rows[segment.trial] = segment.member
            if segment.value is not None:
                completed.add(place)
        else:
            rows[segment.trial] = n_members + GAP + n_explorers[segment.generation]
            n_explorers[segment.generation] += 1
    return rows


def _member_axis(rows: dict[int, float], n_members: int) -> Axis:
    step = max(math.ceil(n_members / 10), 1)
    ticks = {float(member): str(member) for member in range(0, n_members, step)}
    last = max(rows.values())
    if last >= n_members:
        ticks[n_members + GAP] = "explorers"
    return Axis("member", ticks=ticks, range=(last + 0.8, -0.8))


def _lines(tree: Genealogy, rows: dict[int, float]) -> list[charts.Line]:
    """Lines from parents to clones, and along the rows of members."""
    lines = []
    for kind in genealogy.KINDS:
        pairs = [*tree.clones(kind)]
        for run in tree.runs(kind):  # a row is straight, so its ends suffice
            first = run.segments[0] if run.parent is None else run.parent
            if first is not run.segments[-1]:
                pairs.append((first, run.segments[-1]))
        paths = [[(s.generation, rows[s.trial]) for s in pair] for pair in pairs]
        lines += genealogy.lines(paths, kind)
    return lines


def _points(tree: Genealogy, rows: dict[int, float]) -> list[Points]:
    completed = [s for s in tree.shown if s.value is not None]
    groups = {
        "": [s for s in completed if s.parent is not None and not s.is_clone],
        "birth": [s for s in completed if s.parent is None],
        "clone, mutated": [s for s in completed if s.is_clone],
        "pruned or failed": [s for s in tree.shown if s.value is None],
        "best": [s for s in completed if s is tree.best],
    }
    texts = {segment.trial: genealogy.describe_segment(segment) for segment in tree.shown}
    for parent, clone in tree.clones(*genealogy.KINDS):
        texts[clone.trial] = genealogy.describe_clone(parent, clone)
    points = []
    for name, group in groups.items():
        if group:
            x, y = [s.generation for s in group], [rows[s.trial] for s in group]
            color, symbol, size = STYLES[name]
            hover = [texts[s.trial] for s in group]
            points.append(Points(x, y, color, name or None, symbol, size, texts=hover))
    return points
