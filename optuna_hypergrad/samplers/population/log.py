"""One log line for each trial of a PopulationSampler that begins: what changes, and why."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from typing import Any

from optuna_hypergrad.reports.segments import Segment
from optuna_hypergrad.samplers.describe import (
    SIGNS,
    describe_change,
    describe_factor,
    differ,
    listed,
)
from optuna_hypergrad.samplers.distributions import proposed
from optuna_hypergrad.samplers.population.lineage import MutationRecord, mutations_of
from optuna_hypergrad.samplers.population.population import Population, SegmentTrial


def describe_segment(segment: Segment, population: Population, fixed: Collection[str] = ()) -> str:
    """The member of a segment, and which parameters change; ``fixed`` ones never do."""
    member = "an explorer" if segment.member is None else f"member {segment.member}"
    place = f"Trial {segment.trial}: generation {segment.generation}, {member}"
    if segment.parent is None:
        return f"{place} starts."
    parent = population[segment.parent]
    changes = listed([*_changes(segment, parent, fixed)])
    if segment.age:
        return f"{place} continues: {changes}."
    of = "an explorer" if parent.segment.member is None else str(parent.segment.member)
    return f"{place} ← clone of {of} (trial {parent.number}), {changes}."


def _changes(segment: Segment, parent: SegmentTrial, fixed: Collection[str]) -> Iterator[str]:
    """Parameters that differ: from the parent's start, or, in a clone, from the parent's end."""
    distributions, params = parent.trial.distributions, parent.trial.params
    mutations = mutations_of(segment, distributions)
    unrefined = params.keys() if segment.age else segment.fixed
    before = {**parent.ended_with, **{n: params[n] for n in unrefined if n in params}}
    for name, after in proposed(segment.values, distributions).items():
        if name in fixed or not differ(before[name], after):
            continue
        if not segment.age:
            yield f"{name} {describe_mutation(before[name], after, mutations.get(name))}"
        elif segment.refinement.get(name) == "step":
            sign = SIGNS[round(segment.sign[name])]
            yield f"{name} {describe_change(before[name], after)} (sign {sign})"
        else:
            yield f"{name} {describe_change(before[name], after)} (refined)"


def describe_mutation(before: Any, after: Any, mutation: MutationRecord | None) -> str:
    """A parent's value and its clone's, with steps along hypergradients and a weight but 1.

    Example:
        >>> describe_mutation(0.0025, 0.003, MutationRecord("perturbed", before=0.25, after=0.3))
        '0.0025 → 0.003 (weight 1.2)'
        >>> record = MutationRecord("gradient", before=0.3, after=0.4, has_step=True)
        >>> describe_mutation(0.2, 0.4, record)
        '0.2 → 0.4 (two steps)'
        >>> describe_mutation("a", "b", MutationRecord("resampled", math.nan, math.nan))
        'a → b (resampled)'
    """
    change = describe_change(before, after)
    if mutation is None:
        return change
    if mutation.origin == "resampled":
        return f"{change} (resampled)"
    if mutation.origin == "surrogate":
        return f"{change} (where the surrogate is lowest)"
    n_steps = mutation.has_step + (mutation.origin == "gradient")
    parts = [("", "one step", "two steps")[n_steps]]
    if mutation.origin != "gradient" and not math.isnan(mutation.factor):
        weight = describe_factor(mutation.factor)
        parts.append("" if weight == "1" else f"weight {weight}")
    why = ", ".join(part for part in parts if part)
    return f"{change} ({why})" if why else change
