"""One line for each trial of a PopulationSampler that begins: what changes, and why."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from optuna_hypergrad.reports import Segment
from optuna_hypergrad.samplers.describe import (
    SIGNS,
    describe_change,
    describe_factor,
    differ,
    listed,
)
from optuna_hypergrad.samplers.distributions import proposed
from optuna_hypergrad.samplers.population.hyperparameters import ended_with
from optuna_hypergrad.samplers.population.lineage import (
    MutationRecord,
    goes_on_refined,
    mutations_of,
)
from optuna_hypergrad.samplers.population.population import Population, SegmentTrial


def describe_segment(segment: Segment, family: Population, fixed: Collection[str] = ()) -> str:
    """What a trial of a PopulationSampler is to do.

    Args:
        segment: The trial's.
        family: The population.
        fixed: Parameters that do not move, whatever is proposed.
    """
    values = {name: value for name, value in segment.values.items() if name not in fixed}
    segment = segment._replace(values=values)
    who = "an explorer" if segment.member is None else f"member {segment.member}"
    place = f"Trial {segment.trial}: generation {segment.generation}, {who}"
    if segment.parent is None:
        return f"{place} is born."
    parent = family[segment.parent]
    if segment.age:
        changes = _changes(segment, parent)
        return f"{place} goes on: {listed([*changes])}."
    of = "an explorer" if parent.segment.member is None else str(parent.segment.member)
    origin = f"clone of {of} (trial {parent.number})"
    return f"{place} ← {origin}, {listed([*_mutations(segment, parent, family)])}."


def _changes(segment: Segment, parent: SegmentTrial) -> Iterator[str]:
    """What a student goes on with where it is not what its last segment began with."""
    for name, before, after in _differences(segment, parent, parent.trial.params):
        sign = segment.sign.get(name)
        why = "refined" if sign is None else f"sign {SIGNS[round(sign)]}"
        yield f"{name} {describe_change(before, after)} ({why})"


def _mutations(segment: Segment, parent: SegmentTrial, family: Population) -> Iterator[str]:
    """What a clone begins with where it is not what its parent ended with."""
    mutations = mutations_of(segment, parent, goes_on_refined(family))
    kept = {name: value for name, value in parent.trial.params.items() if name in segment.fixed}
    for name, before, after in _differences(segment, parent, {**ended_with(parent), **kept}):
        yield f"{name} {describe_mutation(before, after, mutations.get(name))}"


def _differences(
    segment: Segment, parent: SegmentTrial, before: Mapping[str, Any]
) -> Iterator[tuple[str, Any, Any]]:
    for name, after in proposed(segment.values, parent.trial.distributions).items():
        if differ(before[name], after):
            yield name, before[name], after


def describe_mutation(before: Any, after: Any, mutation: MutationRecord | None) -> str:
    """What became of a value at cloning: steps along hypergradients, and the weight of mutation.

    A weight of 1 is not told.

    Args:
        before: What the parent ended with.
        after: What the clone begins with.
        mutation: What is known of it.

    Example:
        >>> describe_mutation(0.0025, 0.003, Mutated("perturbed", before=0.25, after=0.3))
        '0.0025 → 0.003 (weight 1.2)'
        >>> describe_mutation(0.2, 0.4, Mutated("gradient", before=0.3, after=0.4, has_step=True))
        '0.2 → 0.4 (two steps)'
        >>> describe_mutation("a", "b", Mutated("resampled", before=math.nan, after=math.nan))
        'a → b (drawn anew)'
    """
    change = describe_change(before, after)
    if mutation is not None and mutation.origin == "resampled":
        return f"{change} (drawn anew)"
    parts = [] if mutation is None else [_describe_steps(mutation), _describe_weight(mutation)]
    what = ", ".join(part for part in parts if part)
    return f"{change} ({what})" if what else change


def _describe_steps(mutation: MutationRecord) -> str:
    """The parent's own step to what it handed on, and that of mutation."""
    n_steps = mutation.has_step + (mutation.origin == "gradient")
    return ("", "one step", "two steps")[n_steps]


def _describe_weight(mutation: MutationRecord) -> str:
    if mutation.origin == "gradient" or math.isnan(mutation.factor):
        return ""
    factor = describe_factor(mutation.factor)
    return "" if factor == "1" else f"weight {factor}"
