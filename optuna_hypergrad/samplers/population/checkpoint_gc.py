"""Garbage collection of checkpoints: which ones a population may still need."""

from __future__ import annotations

from optuna_hypergrad.samplers.population.population import PATIENCE, Population, SegmentTrial


def needed(population: Population, maximize: bool) -> set[int]:
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
    best = min(complete, key=lambda one: one.rank_key(maximize), default=None)
    return kept if best is None else kept | {best.number}


def removable(population: Population, maximize: bool) -> list[SegmentTrial]:
    """The finished segments whose checkpoints can be removed.

    None while a recent trial has begun but has no segment yet: it may have read the storage before
    others finished. A checkpoint that is not needed now is needed by no trial that begins later.
    """
    workers = len(population.at_work(population.n_trials, population.size)) + 1
    recent = population.n_trials - PATIENCE * max(population.size, workers)
    if any(number >= recent for number in population.undecided):
        return []
    kept = needed(population, maximize)
    return [one for one in population.with_checkpoint.values() if one.number not in kept]
