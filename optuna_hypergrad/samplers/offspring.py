"""What a segment begins with: a birth, the next segment of a student, or a mutated clone."""

from __future__ import annotations

import math
from collections import Counter
from typing import NamedTuple

import numpy as np

from optuna_hypergrad.algorithms import selection
from optuna_hypergrad.reports import Segment, Taught
from optuna_hypergrad.samplers.breeding import Breeding
from optuna_hypergrad.samplers.constraints import ranked
from optuna_hypergrad.samplers.family import Family, Student
from optuna_hypergrad.samplers.mutations import Mutant, mutate
from optuna_hypergrad.samplers.retention import needed
from optuna_hypergrad.samplers.traits import handed_on
from optuna_hypergrad.samplers.turns import Turn

# A student whose segment failed this often has no future; a clone takes its place.
MAX_FAILURES = 3


class Inheritance(NamedTuple):
    """Whom a segment inherits from."""

    parent: Student | None  # None at a birth
    is_cloned: bool = False


def inherit(
    family: Family, turn: Turn, breeding: Breeding, maximize: bool, rng: np.random.Generator
) -> Inheritance:
    """Exploit: the student that fills the place itself, or the one that replaces it.

    Args:
        family: The population.
        turn: The place to fill.
        breeding: How to select.
        maximize: The study's direction.
        rng: Random numbers of the trial's own.
    """
    barren = _barren(family, turn)
    alive = family.at_age(turn.generation - 1, breeding.population_size)
    pool = [student for student in alive if student.number not in barren]
    losses = ranked([student.rank_key(maximize) for student in pool])
    if not any(map(math.isfinite, losses)):
        return _last_resort(family, turn, barren, maximize)
    own = None if turn.member is None else family.head(turn.member, turn.generation - 1)
    numbers = [student.number for student in pool]
    if own is None or own.number not in numbers or _is_lost(family, turn, own, maximize):
        best = selection.best(losses, breeding.truncation)
        return Inheritance(pool[int(rng.choice(best))], is_cloned=True)
    chosen = None
    if own.segment.age >= breeding.burn_in:
        chosen = _select(losses, numbers.index(own.number), breeding, rng)
    return Inheritance(own) if chosen is None else Inheritance(pool[chosen], is_cloned=True)


def _last_resort(
    family: Family, turn: Turn, barren: set[int | None], maximize: bool
) -> Inheritance:
    """Where all the students to breed from are lost, the best of those before whose checkpoints
    are kept; where there is none, a birth."""
    kept = needed(family, maximize) - barren
    before = (s for s in family.kept if s.number in kept and s.generation < turn.generation)
    sound = (student for student in before if math.isfinite(student.loss(maximize)))
    best = min(sound, key=lambda s: (s.rank_key(maximize), s.number), default=None)
    return Inheritance(best, is_cloned=best is not None)


def begin(
    birth: Segment,
    inheritance: Inheritance,
    breeding: Breeding,
    taught: Taught | None,
    rng: np.random.Generator,
) -> Segment:
    """The segment that fills a place.

    Args:
        birth: What it is if it inherits nothing.
        inheritance: Whom it inherits from.
        breeding: How the population lives.
        taught: The teacher to ask, where there is one.
        rng: Random numbers of the trial's own.
    """
    parent, is_cloned = inheritance
    if parent is None:
        return birth
    mutant = Mutant(handed_on(parent, breeding.refine, breeding.fixed), {})
    if is_cloned:
        mutant = mutate(parent, mutant.traits, taught, breeding, rng)
    return birth._replace(
        parent=parent.number,
        age=0 if is_cloned else parent.segment.age + 1,
        values=mutant.traits.values,
        step_size={name: step for name, (step, _) in mutant.traits.pace.items()},
        sign={name: sign for name, (_, sign) in mutant.traits.pace.items()},
        queried=mutant.queried,
        resampled=mutant.resampled,
    )


def _barren(family: Family, turn: Turn) -> set[int | None]:
    """Parents whose children keep failing in a place: perhaps their checkpoints are damaged."""
    attempts = family.attempts(turn.member, turn.generation)
    failures = Counter(student.segment.parent for student in attempts if not student.done)
    return {parent for parent, count in failures.items() if count >= MAX_FAILURES}


def _is_lost(family: Family, turn: Turn, own: Student, maximize: bool) -> bool:
    """Whether a student was pruned, has no finite loss, or keeps failing."""
    failures = len(family.attempts(turn.member, turn.generation))
    return not math.isfinite(own.loss(maximize)) or failures >= MAX_FAILURES


def _select(
    losses: list[float], own: int, breeding: Breeding, rng: np.random.Generator
) -> int | None:
    if breeding.selection == "tournament":
        return selection.tournament(losses, own, rng)
    return selection.truncation(losses, own, breeding.truncation, rng)
