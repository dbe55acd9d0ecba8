"""Which member a worker runs next."""

from __future__ import annotations

from typing import NamedTuple

from optuna.trial import FrozenTrial

from optuna_hypergrad.samplers.population.config import PopulationConfig
from optuna_hypergrad.samplers.population.population import Population, SegmentTrial

# A segment is overdue when PATIENCE times as many trials have begun since as there are members or
# workers (workers, where others wait for it). Most storages cannot distinguish a dead worker from
# a slow one, and the clocks of machines differ; trial numbers do not.
PATIENCE = 2


class Assignment(NamedTuple):
    """What a trial is to run."""

    member: int | None  # None for an explorer
    generation: int


def next_assignment(
    population: Population, trial: FrozenTrial, config: PopulationConfig
) -> Assignment:
    """The member furthest behind that nobody runs; an explorer if all are taken.

    With ``synchronous``, a member waits until all others have finished its generation.
    """
    progress = [population.progress(member) for member in range(config.population_size)]
    least = 0 if config.synchronous else config.population_size
    taken = {
        (one.segment.member, one.generation)
        for one in at_work(population, trial.number, least)
        if not _timed_out(one, trial, config.timeout)
    }
    free = [
        Assignment(member, generation)
        for member, generation in enumerate(progress)
        if (member, generation) not in taken
        and not (config.synchronous and generation > min(progress))
    ]
    return min(free, key=lambda one: one.generation, default=Assignment(None, min(progress)))


def at_work(population: Population, number: int, least: int) -> list[SegmentTrial]:
    """The running segments that are not overdue when a trial begins, the latest first.

    Only those that began after a segment count as its fellow workers: storages without heartbeat
    keep dead trials running for ever, and these must not add up to ever more patience.

    Args:
        population: The population.
        number: Number of the trial that begins.
        least: The least number of workers to assume.
    """
    alive: list[SegmentTrial] = []
    for earlier in sorted(population.running, reverse=True):
        workers = len(alive) + 2  # those, this one, and the trial that begins
        if number - earlier < PATIENCE * max(least, workers):
            alive.append(population.running[earlier])
    return alive


def _timed_out(running: SegmentTrial, trial: FrozenTrial, timeout: float | None) -> bool:
    """Whether a segment has run for too long when a later trial begins."""
    began, now = running.trial.datetime_start, trial.datetime_start
    if timeout is None or began is None or now is None:
        return False
    return (now - began).total_seconds() > timeout
