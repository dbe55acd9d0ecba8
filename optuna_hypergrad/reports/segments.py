"""What PopulationSampler decides about a trial."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from optuna_hypergrad.reports.attributes import (
    StoredDataError,
    own_decision,
    reading,
    write_decision,
    write_scalar,
)
from optuna_hypergrad.reports.fields import MOST
from optuna_hypergrad.reports.keys import GENERATION, MEMBER, PARENT, SEGMENT

if TYPE_CHECKING:
    from optuna.storages import BaseStorage


class Segment(NamedTuple):
    """What PopulationSampler decides about a trial before it runs."""

    trial: int
    """The trial's number, which tells a copied segment from its own."""
    member: int | None
    """The place in the population that the trial fills; None for an explorer beyond it."""
    generation: int
    """How many segments that member has run before."""
    population: int
    """How many places it has."""
    seed: int
    """Seed of the population: that of the sampler which decided its first segment."""
    study: str
    """Name of the study, which tells a copied family from the one that owns its checkpoints."""
    parent: int | None = None
    """Number of the trial whose checkpoint and values are inherited; None at a birth."""
    age: int = 0
    """How many segments the student has run since its birth or its replacement by a clone."""
    values: Mapping[str, float] = {}
    """What to propose, by parameter, in Optuna's internal representation; not rounded."""
    step_size: Mapping[str, float] = {}
    """Step sizes of the refinement, in fractions of the ranges."""
    sign: Mapping[str, float] = {}
    """Last signs of the hypergradients."""
    queried: Mapping[str, float] = {}
    """What the teacher was asked about, in fractions of the ranges; empty if it was not asked."""
    resampled: tuple[str, ...] = ()
    """Parameters whose mutated values are not the teacher's."""
    fixed: tuple[str, ...] = ()
    """Parameters that the user wants neither mutated nor refined."""


def write_segment(storage: BaseStorage, trial_id: int, segment: Segment) -> None:
    """Store a sampler's decision with a running trial, and what of it is to be seen: the parent
    only of clones, since each write takes a database some milliseconds."""
    lists = {"resampled": [*segment.resampled], "fixed": [*segment.fixed]}
    stored = {**segment._asdict(), **lists}
    write_decision(storage, trial_id, SEGMENT, stored)
    cloned = None if segment.age else segment.parent
    seen = {MEMBER: segment.member, GENERATION: segment.generation, PARENT: cloned}
    for key, value in seen.items():
        if value is not None:
            write_scalar(storage, trial_id, key, value)


def check_descent(child: Segment, parent: Segment) -> None:
    """StoredDataError unless a parent is of an earlier generation than its child.

    So lineages end, whatever a storage says of them.
    """
    if parent.generation >= child.generation:
        raise StoredDataError(
            f"trial {child.trial}: {SEGMENT} is damaged: the parent, trial {child.parent}, must be "
            f"of a generation before {child.generation}, got {parent.generation}."
        )


def read_segment(number: int, system_attrs: Mapping[str, Any]) -> Segment | None:
    """The segment among a trial's system attributes, or None.

    A retried trial keeps the segment that it inherited; one copied to another study under another
    number does not.

    Args:
        number: The trial's number, for the error.
        system_attrs: Its system attributes, freshly read.

    Raises:
        StoredDataError: If the attribute was not written by ``write_segment``.
    """
    stored = own_decision(system_attrs, number, SEGMENT)
    if stored is None:
        return None
    with reading(number, SEGMENT):
        population = stored.whole("population", least=1, most=MOST)
        generation = stored.whole("generation", most=MOST)
        parent = stored.perhaps("parent")
        queried = stored.numbers("queried", 0.0, 1.0)
        if parent == number or (queried and parent is None):
            raise ValueError(f"parent must be another trial, got {parent}")
        return Segment(
            trial=stored.whole("trial"),
            member=stored.perhaps("member", most=population - 1),
            generation=generation,
            population=population,
            seed=stored.whole("seed", most=math.inf),
            study=stored.text("study"),
            parent=parent,
            age=stored.whole("age", most=generation),
            values=stored.numbers("values"),
            step_size=stored.numbers("step_size", 0.0, 1.0),
            sign=stored.numbers("sign", -1.0, 1.0),
            queried=queried,
            resampled=stored.texts("resampled"),
            fixed=stored.texts("fixed") if "fixed" in stored else (),  # older ones have none
        )
