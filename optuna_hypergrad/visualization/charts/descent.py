"""Who descends from whom, as the figures of a population need it.

All of them tell three kinds of students apart: those in the best student's own line, those that
live on (survivors, the latest of each member, and their ancestors), and those that died out.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

from optuna.study import Study

from optuna_hypergrad.samplers.population.lineage import SegmentRecord, students
from optuna_hypergrad.samplers.population.log import describe_mutation
from optuna_hypergrad.samplers.studies import maximizes
from optuna_hypergrad.visualization.charts import colors

Kind = Literal["died out", "lives on", "best"]
KINDS: tuple[Kind, ...] = ("died out", "lives on", "best")  # as they are drawn, the last on top
Point = tuple[float, float]

MOST_CHANGES = 6  # describe_segment of a clone
NOBODY = "No student of a PopulationSampler has finished a segment yet."
NAMES: dict[Kind, str] = {
    "died out": "died out",
    "lives on": "survivors and their ancestors",
    "best": "lineage of the best",
}
COLORS: dict[Kind, str] = {"died out": colors.GREY, "lives on": colors.BLUE, "best": colors.BLACK}
WIDTHS: dict[Kind, float] = {"died out": 0.8, "lives on": 1.2, "best": 2.5}


class Run(NamedTuple):
    """Segments of one student that follow each other, all of a kind."""

    kind: Kind
    before: (
        SegmentRecord | None
    )  # the segment that it goes on from; None at a birth, and of a clone
    segments: list[SegmentRecord]


class Descent(NamedTuple):
    """The students of a study."""

    all: dict[int, SegmentRecord]  # by trial number
    shown: list[SegmentRecord]  # of the latest generations, by trial number
    best: SegmentRecord | None
    kinds: dict[int, Kind]  # by trial number

    @classmethod
    def of(cls, study: Study) -> Descent:
        """Those of a study, all of them shown."""
        everyone = {student.trial: student for student in students(study)}
        best = _best(everyone.values(), maximizes(study))
        living = _lines(everyone, _latest(everyone.values()))
        line = _lines(everyone, [] if best is None else [best])
        kinds: dict[int, Kind] = {
            n: "best" if n in line else "lives on" if n in living else "died out" for n in everyone
        }
        return cls(everyone, [*everyone.values()], best, kinds)

    def latest(self, most: int) -> Descent:
        """The same, of which only the latest generations are shown where there are too many."""
        return self._replace(shown=_latest_generations(self.shown, most))

    def titled(self, title: str) -> str:
        """A title that says so where not all is shown."""
        if len(self.shown) == len(self.all):
            return title
        return f"{title}: the latest {len(self.shown):,} of {len(self.all):,} segments"

    def parent(self, student: SegmentRecord) -> SegmentRecord | None:
        """The shown student whom one inherits from."""
        parent = None if student.parent is None else self.all[student.parent]
        return parent if parent and parent.generation >= self.first else None

    @property
    def first(self) -> int:
        """The first generation that is shown."""
        return min(student.generation for student in self.shown)

    def runs(self, kind: Kind) -> list[Run]:
        """The runs of a kind; each segment is in one."""
        runs: dict[int, Run] = {}  # by the number of their last segment
        for student in (s for s in self.shown if self.kinds[s.trial] == kind):
            parent = None if student.is_clone else self.parent(student)
            run = None if parent is None else runs.pop(parent.trial, None)
            run = Run(kind, parent, []) if run is None else run
            run.segments.append(student)
            runs[student.trial] = run
        return [*runs.values()]

    def clones(self, *kinds: Kind) -> Iterator[tuple[SegmentRecord, SegmentRecord]]:
        """The clones of some kinds, each with its parent, where both are shown."""
        for student in self.shown:
            parent = self.parent(student) if student.is_clone else None
            if parent is not None and self.kinds[student.trial] in kinds:
                yield parent, student


def joined(paths: Iterable[Sequence[Point]]) -> tuple[list[float], list[float]]:
    """Paths as the coordinates of one line, with gaps between them."""
    points = [point for path in paths for point in (*path, (math.nan, math.nan))][:-1]
    return [x for x, _ in points], [y for _, y in points]


def describe_segment(student: SegmentRecord) -> str:
    """What is said of a student where the mouse is."""
    who = "explorer" if student.member is None else f"member {student.member}"
    value = "lost" if student.value is None else f"{student.value:.4g}"
    return f"trial {student.trial}: {who}, generation {student.generation}, {value}"


def describe_clone(parent: SegmentRecord, clone: SegmentRecord) -> str:
    """The same, and what mutation did to a clone, as the line says with which its trial begins."""
    lines = [f"{describe_segment(clone)}, clone of trial {parent.trial}"]
    for name, after in clone.params.items():
        before = parent.ended.get(name, after)
        if before != after:
            lines.append(f"{name} {describe_mutation(before, after, clone.mutations.get(name))}")
    return "\n".join(lines[: 1 + MOST_CHANGES])


def _best(everyone: Iterable[SegmentRecord], maximize: bool) -> SegmentRecord | None:
    sign = -1 if maximize else 1
    found = [(s.violation, sign * s.value, s.trial, s) for s in everyone if s.value is not None]
    sound = [one for one in found if math.isfinite(one[1])]
    return min(sound)[3] if sound else None


def _latest(everyone: Iterable[SegmentRecord]) -> list[SegmentRecord]:
    """Those who fill the places of the population now."""
    latest: dict[int, SegmentRecord] = {}
    for student in everyone:
        if student.member is not None and student.value is not None:
            held = latest.setdefault(student.member, student)
            if student.generation > held.generation:
                latest[student.member] = student
    return [*latest.values()]


def _lines(everyone: dict[int, SegmentRecord], ends: Iterable[SegmentRecord]) -> set[int]:
    """Trial numbers of students and all their ancestors."""
    numbers: set[int] = set()
    for end in ends:
        number: int | None = end.trial
        while number is not None and number not in numbers:
            numbers.add(number)
            number = everyone[number].parent
    return numbers


def _latest_generations(everyone: list[SegmentRecord], most: int) -> list[SegmentRecord]:
    sizes = Counter(student.generation for student in everyone)
    room, first = most, max(sizes, default=0)
    for generation in sorted(sizes, reverse=True):
        room -= sizes[generation]
        if room < 0:
            break
        first = generation
    return [student for student in everyone if student.generation >= first][-most:]
