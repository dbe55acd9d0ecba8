"""Which checkpoints a population may still need."""

from __future__ import annotations

from optuna_hypergrad.samplers.family import Family, Student
from optuna_hypergrad.samplers.turns import PATIENCE, at_work


def needed(family: Family, maximize: bool) -> set[int]:
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


def removable(family: Family, maximize: bool) -> list[Student]:
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
