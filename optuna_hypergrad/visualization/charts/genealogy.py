"""The genealogy of a population: which segment went on from which, and which lineages survive."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

from optuna.study import Study

from optuna_hypergrad.samplers.population.lineage import SegmentRecord, students
from optuna_hypergrad.samplers.population.log import describe_mutation
from optuna_hypergrad.samplers.studies import maximizes
from optuna_hypergrad.visualization.charts import Axis, Line, colors

Kind = Literal["extinct", "surviving", "best"]
Point = tuple[float, float]

KINDS: tuple[Kind, ...] = ("extinct", "surviving", "best")  # in the order of drawing
NAMES: dict[Kind, str] = {
    "extinct": "died out",
    "surviving": "survivors and their ancestors",
    "best": "lineage of the best",
}
COLORS: dict[Kind, str] = {"extinct": colors.GREY, "surviving": colors.BLUE, "best": colors.BLACK}
WIDTHS: dict[Kind, float] = {"extinct": 0.8, "surviving": 1.2, "best": 2.5}

GENERATIONS = Axis("generation", is_integer=True)
MAX_CHANGES = 6  # lines about a clone
NO_SEGMENTS = "No segment of a PopulationSampler has finished yet."


class Run(NamedTuple):
    """Segments of one kind, each of which went on from the one before."""

    parent: SegmentRecord | None  # of the first segment, unless that is a clone
    segments: list[SegmentRecord]


class Genealogy(NamedTuple):
    """The finished segments of a population.

    A segment is of the kind "best" if it belongs to the lineage of the best segment; "surviving"
    if it belongs to that of a member's latest segment; else "extinct".
    """

    segments: dict[int, SegmentRecord]  # by trial number
    shown: list[SegmentRecord]  # those of the latest generations, by trial number
    best: SegmentRecord | None
    kinds: dict[int, Kind]  # by trial number

    @classmethod
    def of(cls, study: Study) -> Genealogy:
        """The genealogy of a study, all of which is shown."""
        segments = {segment.trial: segment for segment in students(study)}
        best = _best(segments.values(), maximizes(study))
        surviving = _lineages(segments, _latest(segments.values()))
        best_lineage = _lineages(segments, [] if best is None else [best])
        kinds: dict[int, Kind] = {
            n: "best" if n in best_lineage else "surviving" if n in surviving else "extinct"
            for n in segments
        }
        return cls(segments, [*segments.values()], best, kinds)

    def latest(self, size: int) -> Genealogy:
        """The same, but only the latest generations are shown: at most ``size`` segments."""
        sizes = Counter(segment.generation for segment in self.shown)
        first, total = max(sizes, default=0), 0
        for generation in sorted(sizes, reverse=True):
            total += sizes[generation]
            if total > size:
                break
            first = generation
        shown = [segment for segment in self.shown if segment.generation >= first]
        return self._replace(shown=shown[-size:])

    def title(self, title: str) -> str:
        """The title of a figure with what it leaves out."""
        if len(self.shown) == len(self.segments):
            return title
        return f"{title}: the latest {len(self.shown):,} of {len(self.segments):,} segments"

    @property
    def first(self) -> int:
        """The first generation that is shown."""
        return min(segment.generation for segment in self.shown)

    def parent(self, segment: SegmentRecord) -> SegmentRecord | None:
        """The parent of a segment if it is shown."""
        parent = None if segment.parent is None else self.segments[segment.parent]
        return parent if parent and parent.generation >= self.first else None

    def runs(self, kind: Kind) -> list[Run]:
        """The runs of a kind; each shown segment is in one."""
        runs: dict[int, Run] = {}  # by the trial number of their last segment
        for segment in (s for s in self.shown if self.kinds[s.trial] == kind):
            parent = None if segment.is_clone else self.parent(segment)
            run = None if parent is None else runs.pop(parent.trial, None)
            run = Run(parent, []) if run is None else run
            run.segments.append(segment)
            runs[segment.trial] = run
        return [*runs.values()]

    def clones(self, *kinds: Kind) -> Iterator[tuple[SegmentRecord, SegmentRecord]]:
        """The parents and clones of some kinds, where both are shown."""
        for segment in self.shown:
            parent = self.parent(segment) if segment.is_clone else None
            if parent is not None and self.kinds[segment.trial] in kinds:
                yield parent, segment


def polyline(paths: Iterable[Sequence[Point]]) -> tuple[list[float], list[float]]:
    """The coordinates of paths as one line, with gaps between them."""
    points = [point for path in paths for point in (*path, (math.nan, math.nan))][:-1]
    return [x for x, _ in points], [y for _, y in points]


def lines(paths: Sequence[Sequence[Point]], kind: Kind, color: str | None = None) -> list[Line]:
    """Paths as one line in the style of their kind; none if there are no paths."""
    style = (color or COLORS[kind], NAMES[kind])
    return [Line(*polyline(paths), *style, width=WIDTHS[kind])] if paths else []


def describe_segment(segment: SegmentRecord) -> str:
    member = "explorer" if segment.member is None else f"member {segment.member}"
    value = "pruned or failed" if segment.value is None else f"{segment.value:.4g}"
    return f"trial {segment.trial}: {member}, generation {segment.generation}, {value}"


def describe_clone(parent: SegmentRecord, clone: SegmentRecord) -> str:
    """The hover text of a clone: its hyperparameters as in the log line that began its trial."""
    texts = [f"{describe_segment(clone)}, clone of trial {parent.trial}"]
    for name, after in clone.params.items():
        before = parent.ended.get(name, after)
        if before != after:
            texts.append(f"{name} {describe_mutation(before, after, clone.mutations.get(name))}")
    return "\n".join(texts[: 1 + MAX_CHANGES])


def _best(segments: Iterable[SegmentRecord], maximize: bool) -> SegmentRecord | None:
    sign = -1 if maximize else 1
    valued = [(s.violation, sign * s.value, s.trial, s) for s in segments if s.value is not None]
    ranked = [one for one in valued if math.isfinite(one[1])]
    return min(ranked)[3] if ranked else None


def _latest(segments: Iterable[SegmentRecord]) -> list[SegmentRecord]:
    """The latest completed segment of each member."""
    latest: dict[int, SegmentRecord] = {}
    for segment in segments:
        if segment.member is not None and segment.value is not None:
            known = latest.setdefault(segment.member, segment)
            if segment.generation > known.generation:
                latest[segment.member] = segment
    return [*latest.values()]


def _lineages(segments: dict[int, SegmentRecord], ends: Iterable[SegmentRecord]) -> set[int]:
    """Trial numbers of segments and all their ancestors."""
    numbers: set[int] = set()
    for end in ends:
        number: int | None = end.trial
        while number is not None and number not in numbers:
            numbers.add(number)
            number = segments[number].parent
    return numbers
