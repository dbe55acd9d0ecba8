"""The family tree of a population, as the trial table tells it.

A trial that a PopulationSampler proposed is a segment of a student: it names the place in the
population that it fills, and the trial that it inherits from. Several trials may name the same
place and generation: repetitions of failed ones, racing workers, stand-ins for workers that
vanished. The finished one with the lowest number fills the place; others count as explorers.
"""

from __future__ import annotations

import math
from bisect import insort
from collections import defaultdict
from collections.abc import Iterator, Sequence
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


class Student(NamedTuple):
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

    def loss(self, maximize: bool) -> float:
        """Its value as something to be minimised; infinite if there is none, or it was pruned."""
        value = self.trial.value if self.complete else None
        if value is None or not math.isfinite(value):
            return math.inf
        return -value if maximize else value


class Family:
    """All students of a study; reads what is new in the trial table and remembers the rest.

    What a finished trial says cannot change, so it is read once. A new family reads the same from
    the same table.
    """

    def __init__(self) -> None:
        self.seed: int | None = None  # of its first student
        self.population = 0  # how many places it has, by its latest student
        self.taught: Taught | None = None  # the latest teacher
        self.mutants: list[Student] = []  # finished students whom the teacher mutated
        self.running: list[Student] = []
        self.undecided: list[int] = []  # trials that began, but do not say yet what they run
        self.removed: set[int] = set()  # trials whose checkpoints are gone
        self._upto = 0  # trials below this number have been read
        self._open: list[int] = []  # and these of them had not finished
        self._by_number: dict[int, Student] = {}
        self._places: dict[tuple[int | None, int], list[Student]] = defaultdict(list)
        self._progress: dict[int, int] = {}
        self._founder: float = math.inf  # number of the first student
        self._latest = -1  # number of the latest student
        self._taught_by = -1  # number of the trial that stores the latest teacher

    @property
    def n_trials(self) -> int:
        """How many trials it has read, of whatever sampler."""
        return self._upto

    def read(self, trials: Sequence[FrozenTrial]) -> None:
        """Bring the family up to date with all trials of its study, by number, freshly read."""
        unfinished = [trials[number] for number in self._open]
        for kept in (self._open, self.running, self.undecided):
            kept.clear()
        for trial in (*unfinished, *trials[self._upto :]):
            self._add(trial)
        self._upto = len(trials)

    def __getitem__(self, number: int) -> Student:
        """The finished student of this trial number.

        Raises:
            StoredDataError: If there is none, though another names it as its parent.
        """
        if number not in self._by_number:
            raise StoredDataError(f"trial {number} is a parent, but no finished segment.")
        return self._by_number[number]

    def __contains__(self, number: int) -> bool:
        return number in self._by_number

    def __iter__(self) -> Iterator[Student]:
        """The finished students, in the order that they were read."""
        return iter(self._by_number.values())

    def progress(self, member: int) -> int:
        """How many segments a member has behind it."""
        return self._progress.get(member, 0)

    def attempts(self, member: int | None, generation: int) -> list[Student]:
        """The finished students that named a place and generation, by number."""
        return self._places.get((member, generation), [])

    def head(self, member: int, generation: int) -> Student | None:
        """The student that fills a place in the last generation up to this one."""
        attempts = self.attempts(member, min(generation, self.progress(member) - 1))
        return next((student for student in attempts if student.done), None)

    def at_age(self, generation: int, size: int) -> list[Student]:
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

    def _add(self, trial: FrozenTrial) -> None:
        segment = read_segment(trial.number, trial.system_attrs)
        if segment is None:
            if not trial.state.is_finished():
                self._open.append(trial.number)
                if not trial.params:  # with some, it is that of another sampler
                    self.undecided.append(trial.number)
            return
        self.removed.update(read_removed(trial))
        if trial.number < self._founder:
            self._founder, self.seed = trial.number, segment.seed
        if trial.number > self._latest:
            self._latest, self.population = trial.number, segment.population
        student = Student(trial, segment)
        self._take_teacher(student)
        if trial.state.is_finished():
            self._finish(student)
        else:
            self._open.append(trial.number)
            self.running.append(student)

    def _finish(self, student: Student) -> None:
        member, generation = student.segment.member, student.generation
        self._by_number[student.number] = student
        if student.segment.queried:
            self.mutants.append(student)
        insort(self._places[member, generation], student, key=lambda other: other.number)
        if member is not None and student.done:
            self._progress[member] = max(self.progress(member), generation + 1)

    def _take_teacher(self, student: Student) -> None:
        """The teacher of the highest number is the one to continue."""
        if student.number < self._taught_by:
            return
        taught = read_teacher(student.number, student.trial.system_attrs)
        if taught is not None:
            self._taught_by, self.taught = student.number, taught
