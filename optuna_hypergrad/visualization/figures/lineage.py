"""Who descends from whom in a population."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

from optuna.study import Study

from optuna_hypergrad.samplers.population.lineage import SegmentRecord
from optuna_hypergrad.visualization.charts import colors
from optuna_hypergrad.visualization.charts.descent import (
    COLORS,
    KINDS,
    NAMES,
    NOBODY,
    WIDTHS,
    Descent,
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
    Symbol,
    message,
)

TITLE = "Lineage"
MOST = 2000  # segments; more cannot be describe_segment apart
GAP = 1.0  # between the members and the explorers

STYLES: dict[str, tuple[str, Symbol, float]] = {
    "": (colors.GREY, "circle", 1.5),  # those who go on
    "birth": (colors.BLACK, "open circle", 4.0),
    "clone, mutated": (colors.ORANGE, "circle", 4.0),
    "lost: pruned or failed": (colors.RED, "cross", 4.0),
    "best": (colors.RED, "star", 10.0),
}

Lanes = dict[int, float]  # by trial number


def lineage(study: Study) -> Chart:
    """See ``plot_lineage``."""
    descent = Descent.of(study).latest(MOST)
    if not descent.shown:
        return message(TITLE, NOBODY)
    members = 1 + max((s.member for s in descent.shown if s.member is not None), default=-1)
    lanes = _lanes(descent.shown, members)
    height = 0.17 * (max(lanes.values()) + 1)
    marks = [*_lines(descent, lanes), *_students(descent, lanes)]
    axes = Axis("generation", is_integer=True), _lane_axis(lanes, members)
    panel = Panel("", *axes, marks)
    return Chart(descent.titled(TITLE), [panel], size=(9.0, min(max(height, 2.5), 9.0)))


def _lanes(shown: list[SegmentRecord], members: int) -> Lanes:
    """Members in lanes of their own, explorers beyond them.

    Where several have completed a member's segment, the first counts, and others are explorers.
    """
    lanes: Lanes = {}
    taken: set[tuple[int, int]] = set()
    explorers: Counter[int] = Counter()  # by generation
    for student in shown:
        place = (-1 if student.member is None else student.member, student.generation)
        if student.member is not None and place not in taken:
            lanes[student.trial] = student.member
            if student.value is not None:
                taken.add(place)
        else:
            lanes[student.trial] = members + GAP + explorers[student.generation]
            explorers[student.generation] += 1
    return lanes


def _lane_axis(lanes: Lanes, members: int) -> Axis:
    step = max(math.ceil(members / 10), 1)
    ticks = {float(lane): str(lane) for lane in range(0, members, step)}
    last = max(lanes.values())
    if last >= members:
        ticks[members + GAP] = "explorers"
    return Axis("member", ticks=ticks, range=(last + 0.8, -0.8))


def _lines(descent: Descent, lanes: Lanes) -> list[Mark]:
    """Lines along the lanes of students who go on, and from parents to their clones."""
    marks: list[Mark] = []
    for kind in KINDS:
        clones = [*descent.clones(kind)]
        along = [_ends(run) for run in descent.runs(kind)]
        along = [(first, last) for first, last in along if first is not last]
        paths = [[(s.generation, lanes[s.trial]) for s in path] for path in (*clones, *along)]
        if paths:
            x, y = joined(paths)
            marks.append(Line(x, y, COLORS[kind], NAMES[kind], width=WIDTHS[kind]))
    return marks


def _ends(run: Run) -> tuple[SegmentRecord, SegmentRecord]:
    """A lane is straight: its ends are enough."""
    first = run.segments[0] if run.before is None else run.before
    return first, run.segments[-1]


def _students(descent: Descent, lanes: Lanes) -> list[Mark]:
    done = [s for s in descent.shown if s.value is not None]
    of: dict[str, list[SegmentRecord]] = {
        "": [s for s in done if s.parent is not None and not s.is_clone],
        "birth": [s for s in done if s.parent is None],
        "clone, mutated": [s for s in done if s.is_clone],
        "lost: pruned or failed": [s for s in descent.shown if s.value is None],
        "best": [s for s in done if s is descent.best],
    }
    parents = {clone.trial: parent for parent, clone in descent.clones(*KINDS)}
    return [_points(name, found, lanes, parents) for name, found in of.items() if found]


def _points(
    name: str, students: list[SegmentRecord], lanes: Lanes, parents: Mapping[int, SegmentRecord]
) -> Points:
    color, symbol, size = STYLES[name]
    x, y = [s.generation for s in students], [lanes[s.trial] for s in students]
    texts = [
        describe_clone(parents[s.trial], s) if s.trial in parents else describe_segment(s)
        for s in students
    ]
    return Points(x, y, color, name or None, symbol, size, texts=texts)
