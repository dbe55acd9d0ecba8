"""The state of a population, as the stored trials have it.

A trial that a PopulationSampler proposed is one segment: it names its member, its generation, and
the trial that it continues or clones. Several trials may name the same member and generation:
repetitions of failed ones, racing workers, replacements of workers that vanished. The complete one
with the lowest number is the member's, or else a pruned one; others count as explorers.

It also says which checkpoints are no longer needed.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from operator import attrgetter
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from optuna_hypergrad.reports.attributes import StoredDataError
from optuna_hypergrad.reports.segments import (
    Segment,
    Taught,
    read_refined,
    read_removed,
    read_segment,
    read_teacher,
)
from optuna_hypergrad.samplers.base import TrialReader
from optuna_hypergrad.samplers.studies import rank_key

# A segment is overdue when PATIENCE times as many trials have begun since as there are members or
# workers (workers, where others wait for it). Most storages cannot distinguish a dead worker from
# a slow one, and the clocks of machines differ; trial numbers do not.
PATIENCE = 2
_KEPT = 16  # generations whose peers are kept
_number = attrgetter("number")


class SegmentTrial:
    """A trial of a population, and the segment that was decided for it.

    Args:
        trial: The trial, as it was read.
        segment: The segment.
        maximize: Whether larger values are better.
    """

    def __init__(self, trial: FrozenTrial, segment: Segment, maximize: bool) -> None:
        self.trial, self.segment, self._maximize = trial, segment, maximize
        self.number, self.generation = trial.number, segment.generation
        self.member = -1 if segment.member is None else segment.member
        """The member; -1 for an explorer."""
        self.assigned = self.member, self.generation
        self.complete = trial.state == TrialState.COMPLETE
        """Whether the segment can be continued and cloned."""
        self.done = self.complete or trial.state == TrialState.PRUNED
        """Whether the segment is complete or pruned."""

    def is_within(self, size: int) -> bool:
        """Whether it is an explorer, or a member of a population of this size."""
        return self.member < size

    @cached_property
    def ended_with(self) -> dict[str, Any]:
        """Parameters at the end of a finished segment: the refined values, or what it ran with."""
        return {**self.trial.params, **read_refined(self.trial)}

    @property
    def is_clone(self) -> bool:
        return self.segment.parent is not None and self.segment.age == 0

    @property
    def has_loss(self) -> bool:
        """Whether the trial is complete, with a finite value."""
        return self.complete and self.trial.value is not None and math.isfinite(self.trial.value)

    @cached_property
    def rank_key(self) -> tuple[float, float]:
        """Sorts segments, the best first, as ``studies.rank_key``; infinite without a loss."""
        return rank_key(self.trial, self._maximize) if self.has_loss else (math.inf, math.inf)


class Population(TrialReader[Segment]):
    """All segments of a study; iterates over the finished ones as they were read.

    Args:
        maximize: Whether larger values are better.
    """

    def __init__(self, maximize: bool = False) -> None:
        super().__init__()
        self._maximize = maximize
        self.running: dict[int, SegmentTrial] = {}
        self.with_checkpoint: dict[int, SegmentTrial] = {}  # finished, and not in ``removed``
        self.removed: set[int] = set()  # trials whose checkpoints were removed
        self.undecided: set[int] = set()  # running trials without a segment so far
        self.teacher: tuple[int, Taught] | None = None  # of the latest trial that stores one
        self._finished: dict[int, SegmentTrial] = {}
        self._queried: list[int] = []  # those of them that the teacher mutated, by number
        self._attempts: dict[tuple[int | None, int], list[SegmentTrial]] = defaultdict(list)
        # By member and generation, the segment that counts as the member's.
        self._done: dict[int, dict[int, SegmentTrial]] = defaultdict(dict)
        self._of_generation: dict[int, list[SegmentTrial]] = defaultdict(list)  # complete or pruned
        self._progress: list[int] = []  # by member
        # What ``peers`` gave; changes by one member with each segment.
        self._peers: dict[tuple[int, int], list[SegmentTrial]] = {}
        self._first: SegmentTrial | None = None
        self._latest: SegmentTrial | None = None

    @property
    def seed(self) -> int | None:
        """The seed of the first segment; None before it."""
        return None if self._first is None else self._first.segment.seed

    @property
    def size(self) -> int:
        """The number of members, by the latest segment; 0 before the first."""
        return 0 if self._latest is None else self._latest.segment.population

    def __getitem__(self, number: int) -> SegmentTrial:
        """The finished segment with a trial number that another names as its parent."""
        if number not in self._finished:
            raise StoredDataError(f"trial {number} is a parent, but no finished segment.")
        return self._finished[number]

    def __contains__(self, number: int) -> bool:
        return number in self._finished

    def __iter__(self) -> Iterator[SegmentTrial]:
        return iter(self._finished.values())

    def queried_since(self, number: int) -> list[SegmentTrial]:
        """The finished segments from a trial number on that the teacher mutated, by number."""
        return [self[n] for n in self._queried[bisect_left(self._queried, number) :]]

    def progress(self, member: int) -> int:
        """The number of segments that a member has completed, or had pruned."""
        return self._progress[member] if member < len(self._progress) else 0

    def progress_of_all(self, size: int) -> list[int]:
        """That of each of the first members."""
        return self._progress[:size] + [0] * (size - len(self._progress))

    def attempts(self, member: int | None, generation: int) -> list[SegmentTrial]:
        """The finished segments of a member and generation, by number."""
        return self._attempts.get((member, generation), [])

    def of_generation(self, generation: int, size: int) -> list[SegmentTrial]:
        """The complete and pruned segments of a generation, by member and number.

        Explorers come first, and members from ``size`` on are left out.
        """
        found = (one for one in self._of_generation.get(generation, []) if one.is_within(size))
        return sorted(found, key=lambda one: (one.member, one.number))

    def latest(self, member: int, generation: int) -> SegmentTrial | None:
        """A member's segment of this generation, or its last one if the member lags behind.

        None for an explorer.
        """
        if member < 0:
            return None
        return self._done[member].get(min(generation, self.progress(member) - 1))

    def peers(self, generation: int, size: int) -> Sequence[SegmentTrial]:
        """The segments that are compared and cloned at a generation, by number.

        The latest of each member up to this generation, and the explorers of this generation;
        without those whose checkpoints were removed.
        """
        if (generation, size) not in self._peers:
            if len(self._peers) == _KEPT:
                self._peers.pop(next(iter(self._peers)))
            found = [self.latest(member, generation) for member in range(size)]
            found += [one for one in self._of_generation[generation] if one.is_within(size)]
            by_number = {
                one.number: one
                for one in found
                if one is not None and self._is_peer(one, generation)
            }
            self._peers[generation, size] = [by_number[number] for number in sorted(by_number)]
        return self._peers[generation, size]

    def _is_peer(self, one: SegmentTrial, generation: int) -> bool:
        """Whether a segment of the population is among the peers of a generation."""
        if one.number in self.removed:
            return False
        is_its_own = one.complete and one.generation == generation
        return is_its_own or one is self.latest(one.member, generation)

    def at_work(self, number: int, least: int) -> list[SegmentTrial]:
        """The running segments that are not overdue when a trial begins, the latest first.

        Only those that began after a segment count as its fellow workers: storages without
        heartbeat keep dead trials running for ever, and these must not add up to ever more
        patience.

        Args:
            number: Number of the trial that begins.
            least: The least number of workers to assume.
        """
        running = sorted(self.running, reverse=True)
        alive = [earlier for earlier in running if number - earlier < PATIENCE * least]
        for earlier in running[len(alive) :]:
            workers = len(alive) + 2  # those, this one, and the trial that begins
            if number - earlier < PATIENCE * workers:
                alive.append(earlier)
        return [self.running[one] for one in alive]

    def _read_decision(self, trial: FrozenTrial) -> Segment | None:
        return read_segment(trial.number, trial.system_attrs)

    def _basis(self, decision: Segment) -> tuple[Collection[int], int]:
        return () if decision.parent is None else (decision.parent,), decision.generation

    def _add(self, trial: FrozenTrial, decision: Segment | None) -> None:
        self.running.pop(trial.number, None)
        self.undecided.discard(trial.number)
        if decision is not None:
            self._take_segment(SegmentTrial(trial, decision, self._maximize))
        elif not trial.state.is_finished():
            is_foreign = bool(trial.params) and self._read_decision(trial) is None
            if not is_foreign:
                self.undecided.add(trial.number)

    def _take_segment(self, new: SegmentTrial) -> None:
        for number in read_removed(new.trial):
            self.removed.add(number)
            self.with_checkpoint.pop(number, None)
            for peers in self._peers.values():
                _set(peers, number, None)
        if self._first is None or new.number < self._first.number:
            self._first = new
        if self._latest is None or new.number >= self._latest.number:
            self._latest = new
        if self.teacher is None or new.number >= self.teacher[0]:
            taught = read_teacher(new.number, new.trial.system_attrs)
            self.teacher = self.teacher if taught is None else (new.number, taught)
        if new.trial.state.is_finished():
            self._finish(new)
        else:
            self.running[new.number] = new

    def _finish(self, new: SegmentTrial) -> None:
        member, generation = new.member, new.generation
        self._finished[new.number] = new
        if new.number not in self.removed:
            self.with_checkpoint[new.number] = new
        if new.segment.queried:
            insort(self._queried, new.number)
        attempts = self._attempts[new.segment.member, generation]
        insort(attempts, new, key=lambda other: other.number)
        if not new.done:
            return
        before = {other: self.latest(member, other) for other, _ in self._peers}
        self._of_generation[generation].append(new)
        if member >= 0:
            self._progress += [0] * (member + 1 - len(self._progress))
            self._progress[member] = max(self._progress[member], generation + 1)
            rivals = [new, self._done[member].get(generation, new)]
            first = min(rivals, key=lambda one: (not one.complete, one.number))
            self._done[member][generation] = first
        for (other, size), peers in self._peers.items():
            changed = (before[other], self.latest(member, other), new)
            for one in changed if new.is_within(size) else ():
                if one is not None:
                    _set(peers, one.number, one if self._is_peer(one, other) else None)


def _set(peers: list[SegmentTrial], number: int, one: SegmentTrial | None) -> None:
    """Put a segment among others, which are sorted by number; None takes it out."""
    at = bisect_left(peers, number, key=_number)
    is_there = at < len(peers) and peers[at].number == number
    peers[at : at + is_there] = [] if one is None else [one]


def index_of(one: SegmentTrial | None, peers: Sequence[SegmentTrial]) -> int | None:
    """Where a segment is among others, which are sorted by number; None if it is not there."""
    at = len(peers) if one is None else bisect_left(peers, one.number, key=_number)
    return at if at < len(peers) and peers[at] is one else None


def needed(population: Population) -> set[int]:
    """Numbers of the finished trials whose checkpoints must stay.

    * All that may still be continued or cloned: members are compared at equal generations, so
      these are the segments from the generation of the slowest member on.
    * The parents of running segments.
    * The parents of all these, which replace a damaged checkpoint.
    * The best segment of all.
    """
    finished, members = population.with_checkpoint.values(), range(population.size)
    slowest = min((population.progress(member) for member in members), default=0)
    used = {one.number for one in finished if one.done and one.generation >= slowest - 1}
    running = population.running.values()
    used |= {one.segment.parent for one in running if one.segment.parent is not None}
    parents = (population[number].segment.parent for number in used if number in population)
    kept = used | {parent for parent in parents if parent is not None}
    complete = (one for one in finished if one.complete)
    best = min(complete, key=lambda one: one.rank_key, default=None)
    return kept if best is None else kept | {best.number}


def removable(population: Population) -> list[SegmentTrial]:
    """The finished segments whose checkpoints can be removed.

    None while a recent trial has begun but has no segment yet: it may have read the storage before
    others finished. A checkpoint that is not needed now is needed by no trial that begins later.
    """
    workers = len(population.at_work(population.n_trials, population.size)) + 1
    recent = population.n_trials - PATIENCE * max(population.size, workers)
    if any(number >= recent for number in population.undecided):
        return []
    kept = needed(population)
    return [one for one in population.with_checkpoint.values() if one.number not in kept]
