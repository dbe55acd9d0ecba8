"""The family tree of a population, as the trial table tells it.

A trial that a PopulationSampler proposed is a segment of a student: it names the place in the
population that it fills, and the trial that it inherits from. Several trials may name the same
place and generation: repetitions of failed ones, racing workers, stand-ins for workers that
vanished. The complete one with the lowest number fills the place, or else a pruned one; others
count as explorers.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Collection, Iterator
from typing import NamedTuple

from optuna.trial import FrozenTrial, TrialState

from optuna_hypergrad.reports import (
    Segment,
    StoredDataError,
    Taught,
    read_removed,
    read_segment,
    read_teacher,
)
from optuna_hypergrad.samplers.base import TrialReader
from optuna_hypergrad.samplers.ranking import rank_key


class SegmentTrial(NamedTuple):
    """A student in one segment."""

    trial: FrozenTrial
    segment: Segment

    @property
    def number(self) -> int:
        """The trial's number."""
        return self.trial.number

    @property
    def generation(self) -> int:
        """The segment's generation."""
        return self.segment.generation

    @property
    def complete(self) -> bool:
        """Whether it can be a parent."""
        return self.trial.state == TrialState.COMPLETE

    @property
    def done(self) -> bool:
        """Whether the segment came to an end other than an error."""
        return self.trial.state in (TrialState.COMPLETE, TrialState.PRUNED)

    @property
    def is_clone(self) -> bool:
        """Whether it began as a mutated clone."""
        return self.segment.parent is not None and self.segment.age == 0

    def rank_key(self, maximize: bool) -> tuple[float, float]:
        """What sorts students, the best first; see ``constraints.rank_key``.

        Infinite where there is no finite value, or it was pruned.
        """
        if math.isfinite(self.loss(maximize)):
            return rank_key(self.trial, maximize)
        return math.inf, math.inf

    def loss(self, maximize: bool) -> float:
        """Its value as something to be minimised; infinite if there is none, or it was pruned."""
        value = self.trial.value if self.complete else None
        if value is None or not math.isfinite(value):
            return math.inf
        return -value if maximize else value


class Population(TrialReader[Segment]):
    """All students of a study."""

    def __init__(self) -> None:
        super().__init__()
        self.seed: int | None = None  # of its first student
        self.population = 0  # how many places it has, by its latest student
        self.taught: Taught | None = None  # the latest teacher
        self.undecided: set[int] = set()  # trials that began, but do not say yet what they run
        self.removed: set[int] = set()  # trials whose checkpoints are gone
        self._by_number: dict[int, SegmentTrial] = {}
        self._running: dict[int, SegmentTrial] = {}
        self._mutants: list[int] = []  # finished students whom the teacher mutated, by number
        self._with_checkpoints: dict[int, SegmentTrial] = {}  # finished ones that are not removed
        self._places: dict[tuple[int | None, int], list[SegmentTrial]] = defaultdict(list)
        self._progress: dict[int, int] = {}
        self._founder: float = math.inf  # number of the first student
        self._latest = -1  # number of the latest student
        self._taught_by = -1  # number of the trial that stores the latest teacher

    @property
    def running(self) -> Collection[SegmentTrial]:
        """The students in segments that have not ended."""
        return self._running.values()

    @property
    def kept(self) -> Collection[SegmentTrial]:
        """The finished students whose checkpoints have not been removed."""
        return self._with_checkpoints.values()

    def mutants_since(self, number: int) -> list[SegmentTrial]:
        """The finished students from a trial number on whom the teacher mutated, by number."""
        return [self[n] for n in self._mutants[bisect_left(self._mutants, number) :]]

    def __getitem__(self, number: int) -> SegmentTrial:
        """The finished student of this trial number.

        Raises:
            StoredDataError: If there is none, though another names it as its parent.
        """
        if number not in self._by_number:
            raise StoredDataError(f"trial {number} is a parent, but no finished segment.")
        return self._by_number[number]

    def __contains__(self, number: int) -> bool:
        return number in self._by_number

    def __iter__(self) -> Iterator[SegmentTrial]:
        """The finished students, in the order that they were read."""
        return iter(self._by_number.values())

    def progress(self, member: int) -> int:
        """How many segments a member has behind it."""
        return self._progress.get(member, 0)

    def attempts(self, member: int | None, generation: int) -> list[SegmentTrial]:
        """The finished students that named a place and generation, by number."""
        return self._places.get((member, generation), [])

    def head(self, member: int, generation: int) -> SegmentTrial | None:
        """The student that fills a place in the last generation up to this one."""
        attempts = self.attempts(member, min(generation, self.progress(member) - 1))
        done = (student for student in attempts if student.done)
        return min(done, key=lambda student: (not student.complete, student.number), default=None)

    def at_age(self, generation: int, size: int) -> list[SegmentTrial]:
        """The students to compare and breed at a generation, all equally far.

        Each member as it was at this generation, or as it is if it lags behind, and the explorers
        of this generation, by number; without those whose checkpoints are gone.
        """
        heads = (self.head(member, generation) for member in range(size))
        found = [student for student in heads if student is not None]
        for place in (None, *range(size)):
            found += [s for s in self.attempts(place, generation) if s.complete]
        by_number = {student.number: student for student in found}
        return [by_number[number] for number in sorted(by_number.keys() - self.removed)]

    def _read_decision(self, trial: FrozenTrial) -> Segment | None:
        return read_segment(trial.number, trial.system_attrs)

    def _based_on(self, decision: Segment) -> Collection[int]:
        return () if decision.parent is None else (decision.parent,)

    def _depth(self, decision: Segment) -> int:
        return decision.generation

    def _add(self, trial: FrozenTrial, decision: Segment | None) -> None:
        self._running.pop(trial.number, None)
        self.undecided.discard(trial.number)
        if decision is not None:
            self._take_student(SegmentTrial(trial, decision))
        elif not trial.state.is_finished() and not self._is_foreign(trial):
            self.undecided.add(trial.number)

    def _is_foreign(self, trial: FrozenTrial) -> bool:
        """Whether a trial that runs has parameters, but from another sampler."""
        return bool(trial.params) and self._read_decision(trial) is None

    def _take_student(self, student: SegmentTrial) -> None:
        for number in read_removed(student.trial):
            self.removed.add(number)
            self._with_checkpoints.pop(number, None)
        if student.number < self._founder:
            self._founder, self.seed = student.number, student.segment.seed
        if student.number > self._latest:
            self._latest, self.population = student.number, student.segment.population
        self._take_teacher(student)
        if student.trial.state.is_finished():
            self._finish(student)
        else:
            self._running[student.number] = student

    def _finish(self, student: SegmentTrial) -> None:
        member, generation = student.segment.member, student.generation
        self._by_number[student.number] = student
        if student.number not in self.removed:
            self._with_checkpoints[student.number] = student
        if student.segment.queried:
            insort(self._mutants, student.number)
        insort(self._places[member, generation], student, key=lambda other: other.number)
        if member is not None and student.done:
            self._progress[member] = max(self.progress(member), generation + 1)

    def _take_teacher(self, student: SegmentTrial) -> None:
        """The teacher of the highest number is the one to continue."""
        if student.number < self._taught_by:
            return
        taught = read_teacher(student.number, student.trial.system_attrs)
        if taught is not None:
            self._taught_by, self.taught = student.number, taught
