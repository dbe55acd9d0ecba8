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
    taken = {
        (student.segment.member, student.generation)
        for student in family.running
        if not _is_overdue(student, trial, breeding, len(family.running) + 1)
    }
    free = [
        Turn(member, generation)
        for member, generation in enumerate(progress)
        if (member, generation) not in taken
        and not (breeding.synchronous and generation > min(progress))
    ]
    return min(free, key=lambda turn: turn.generation) if free else Turn(None, min(progress))


def _is_overdue(student: Student, trial: FrozenTrial, breeding: Breeding, workers: int) -> bool:
    """Whether a running segment is given up on, as of when a later trial asks."""
    others = workers if breeding.synchronous else max(breeding.population_size, workers)
    if trial.number - student.number >= PATIENCE * others:
        return True
    began, asked = student.trial.datetime_start, trial.datetime_start
    if breeding.timeout is None or began is None or asked is None:
        return False
    return (asked - began).total_seconds() > breeding.timeout
