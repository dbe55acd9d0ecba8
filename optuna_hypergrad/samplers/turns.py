"""Whose turn it is: the member that a worker runs next."""

from __future__ import annotations

from typing import NamedTuple

from optuna.trial import FrozenTrial

from optuna_hypergrad.samplers.breeding import Breeding
from optuna_hypergrad.samplers.family import Family, Student

# A segment is overdue when this many times as many trials have begun since as there are students
# or workers; where others wait for it, as there are workers. Most storages cannot tell a dead
# worker from a slow one, and the clocks of several machines differ; trial numbers do not.
PATIENCE = 2


class Turn(NamedTuple):
    """What a trial is to run."""

    member: int | None  # None for an explorer
    generation: int


def next_turn(family: Family, trial: FrozenTrial, breeding: Breeding) -> Turn:
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
        Turn(member, generation)
        for member, generation in enumerate(progress)
        if (member, generation) not in taken
        and not (breeding.synchronous and generation > min(progress))
    ]
    return min(free, key=lambda turn: turn.generation) if free else Turn(None, min(progress))


def at_work(family: Family, number: int, least: int) -> list[Student]:
    """The running students that are not given up on when a trial begins, the latest first.

    Only those that began after a student count as its fellow workers: storages without heartbeat
    keep the dead for ever, and they must not add up to ever more patience.

    Args:
        family: The population.
        number: Of the trial that begins.
        least: How many workers to reckon with at least.
    """
    alive: list[Student] = []
    for student in sorted(family.running, key=lambda student: student.number, reverse=True):
        workers = len(alive) + 2  # those, it, and who asks
        if number - student.number < PATIENCE * max(least, workers):
            alive.append(student)
    return alive


def _timed_out(student: Student, trial: FrozenTrial, timeout: float | None) -> bool:
    """Whether a segment runs for too long, as of when a later trial began."""
    began, asked = student.trial.datetime_start, trial.datetime_start
    if timeout is None or began is None or asked is None:
        return False
    return (asked - began).total_seconds() > timeout
