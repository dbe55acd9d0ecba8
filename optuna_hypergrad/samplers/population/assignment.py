"""Whose turn it is: the member that a worker runs next.

Which checkpoints a population may still need.
"""

from __future__ import annotations

from typing import NamedTuple

from optuna.trial import FrozenTrial

from optuna_hypergrad.samplers.population.config import PopulationConfig
from optuna_hypergrad.samplers.population.population import Population, SegmentTrial

# A segment is overdue when this many times as many trials have begun since as there are students
# or workers; where others wait for it, as there are workers. Most storages cannot tell a dead
# worker from a slow one, and the clocks of several machines differ; trial numbers do not.
PATIENCE = 2


class Assignment(NamedTuple):
    """What a trial is to run."""

    member: int | None  # None for an explorer
    generation: int


def next_assignment(
    family: Population, trial: FrozenTrial, breeding: PopulationConfig
) -> Assignment:
    """The member furthest behind that nobody runs; an explorer if all are taken.

    With ``synchronous``, a member that is ahead of others waits for them.

    Args:
        family: The population.
        trial: The trial that asks; its number and start tell what is overdue.
        breeding: The arguments of the sampler.
    """
    progress = [family.progress(member) for member in range(breeding.population_size)]
    least = 0 if breeding.synchronous else breeding.population_size
    taken = {
        (student.segment.member, student.generation)
        for student in at_work(family, trial.number, least)
        if not _timed_out(student, trial, breeding.timeout)
    }
    free = [
        Assignment(member, generation)
        for member, generation in enumerate(progress)
        if (member, generation) not in taken
        and not (breeding.synchronous and generation > min(progress))
    ]
    return min(free, key=lambda turn: turn.generation) if free else Assignment(None, min(progress))


def at_work(family: Population, number: int, least: int) -> list[SegmentTrial]:
    """The running students that are not given up on when a trial begins, the latest first.

    Only those that began after a student count as its fellow workers: storages without heartbeat
    keep the dead for ever, and they must not add up to ever more patience.

    Args:
        family: The population.
        number: Of the trial that begins.
        least: How many workers to reckon with at least.
    """
    alive: list[SegmentTrial] = []
    for student in sorted(family.running, key=lambda student: student.number, reverse=True):
        workers = len(alive) + 2  # those, it, and who asks
        if number - student.number < PATIENCE * max(least, workers):
            alive.append(student)
    return alive


def _timed_out(student: SegmentTrial, trial: FrozenTrial, timeout: float | None) -> bool:
    """Whether a segment runs for too long, as of when a later trial began."""
    began, asked = student.trial.datetime_start, trial.datetime_start
    if timeout is None or began is None or asked is None:
        return False
    return (asked - began).total_seconds() > timeout


def needed(family: Population, maximize: bool) -> set[int]:
    """Numbers of the finished trials whose checkpoints must stay.

    * Whoever can be continued or cloned from now on. A member that stands at a generation
      compares itself with the others at that generation, and will do so at each later one; so
      that is every student from the generation of the slowest member on.
    * The parents of segments that run.
    * The parents of all these: a student whose checkpoint is damaged falls back on the one before.
    * The best of all.

    Args:
        family: The population.
        maximize: The study's direction.
    """
    slowest = min((family.progress(member) for member in range(family.population)), default=0)
    living = {s.number for s in family.kept if s.done and s.generation >= slowest - 1}
    living |= {s.segment.parent for s in family.running if s.segment.parent is not None}
    parents = {family[n].segment.parent for n in living if n in family}
    complete = (student for student in family.kept if student.complete)
    best = min(complete, key=lambda student: student.rank_key(maximize), default=None)
    kept = living | {n for n in parents if n is not None}
    return kept if best is None else kept | {best.number}


def removable(family: Population, maximize: bool) -> list[SegmentTrial]:
    """The finished students whose checkpoints nobody can need, and that are not removed yet.

    None while a recent trial has begun but not decided what to inherit: it may have read the
    table before others went on. What is not needed now is not needed by any trial that begins
    later.

    Args:
        family: The population, read after the caller's own checkpoint was reported.
        maximize: The study's direction.
    """
    workers = len(at_work(family, family.n_trials, family.population)) + 1
    recent = family.n_trials - PATIENCE * max(family.population, workers)
    if any(number >= recent for number in family.undecided):
        return []
    kept = needed(family, maximize)
    return [student for student in family.kept if student.number not in kept]
