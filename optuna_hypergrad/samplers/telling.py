"""One line for each trial that begins: what changes, and why.

Through Optuna's logger, so that ``optuna.logging.set_verbosity`` and its relatives rule.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from optuna.distributions import BaseDistribution

from optuna_hypergrad.logger import get_logger
from optuna_hypergrad.reports import Claim, Segment
from optuna_hypergrad.samplers.changes import short, told_change, told_mutation
from optuna_hypergrad.samplers.distributions import is_log, proposed, to_distribution
from optuna_hypergrad.samplers.family import Family, Student
from optuna_hypergrad.samplers.history import OuterStep, outer_step
from optuna_hypergrad.samplers.mutated import goes_on_refined, mutated
from optuna_hypergrad.samplers.search import Decision
from optuna_hypergrad.samplers.traits import ended_with

MOST = 8  # changes in one line
LARGEST = 700.0  # whose exponential is still a float

_SIGNS = {-1: "−", 0: "0", 1: "+"}


def tell(line: Callable[[], str]) -> None:
    """Log a line, which is made up only where somebody reads it."""
    logger = get_logger()
    if logger.isEnabledFor(logging.INFO):
        logger.info(line())


def told_step(
    claim: Claim,
    decision: Decision | None,
    *,
    is_again: bool,
    is_enqueued: bool,
    one_of_many: bool,
) -> str:
    """What a trial of a GradientSampler is to do.

    Args:
        claim: The trial's.
        decision: The outer step before; None for the first.
        is_again: Whether another trial has claimed the same step.
        is_enqueued: Whether a user has fixed parameters of it.
        one_of_many: Whether there are other chains.
    """
    of_chain = f" of chain {claim.chain}" if one_of_many else ""
    place = f"Trial {claim.trial}: outer step {claim.step}{of_chain}"
    if is_enqueued:
        return f"{place}, at an enqueued point."
    if is_again:
        return f"{place}, once more at the same point."
    if decision is None:
        return f"{place}, the start."
    step = outer_step(decision)
    moves = _listed([*_moves(step, decision.after.learned)])
    what = "another start" if decision.after.state is None else moves
    return f"{place}, after {_came_of(step)}: {what}."


def told_segment(segment: Segment, family: Family) -> str:
    """What a trial of a PopulationSampler is to do."""
    who = "an explorer" if segment.member is None else f"member {segment.member}"
    place = f"Trial {segment.trial}: generation {segment.generation}, {who}"
    if segment.parent is None:
        return f"{place} is born."
    parent = family[segment.parent]
    if segment.age:
        changes = _changes(segment, parent)
        return f"{place} goes on: {_listed([*changes])}."
    of = "an explorer" if parent.segment.member is None else str(parent.segment.member)
    origin = f"clone of {of} (trial {parent.number})"
    return f"{place} ← {origin}, {_listed([*_mutations(segment, parent, family)])}."


def _came_of(step: OuterStep) -> str:
    value = "" if step.value is None else f" ({short(step.value)})"
    became = step.verdict if step.verdict == "diverged" else f"was {step.verdict}"
    return f"trial {'+'.join(map(str, step.trials))}{value} {became}"


def _moves(step: OuterStep, learned: Mapping[str, BaseDistribution]) -> Iterator[str]:
    for name in (name for name in step.proposal if name in step.params):
        before, after = step.params[name], to_distribution(step.proposal[name], learned[name])
        if before != after:
            gamma = _gamma(step.step_size[name], learned[name])
            why = f"sign {_SIGNS[step.sign[name]]}, γ {gamma}"
            yield f"{name} {told_change(before, after)} ({why})"


def _gamma(gamma: float, distribution: BaseDistribution) -> str:
    """A step size; of a logarithmic range, the factor that it multiplies by."""
    if not is_log(distribution):
        return short(gamma)
    return f"×{short(math.exp(gamma) if gamma < LARGEST else math.inf)}"


def _changes(segment: Segment, parent: Student) -> Iterator[str]:
    """What a student goes on with where it is not what its last segment began with."""
    for name, before, after in _differences(segment, parent, parent.trial.params):
        sign = segment.sign.get(name)
        why = "refined" if sign is None else f"sign {_SIGNS[round(sign)]}"
        yield f"{name} {told_change(before, after)} ({why})"


def _mutations(segment: Segment, parent: Student, family: Family) -> Iterator[str]:
    """What a clone begins with where it is not what its parent ended with."""
    mutations = mutated(segment, parent, goes_on_refined(family))
    for name, before, after in _differences(segment, parent, ended_with(parent)):
        yield f"{name} {told_mutation(before, after, mutations.get(name))}"


def _differences(
    segment: Segment, parent: Student, before: Mapping[str, Any]
) -> Iterator[tuple[str, Any, Any]]:
    for name, after in proposed(segment.values, parent.trial.distributions).items():
        if before[name] != after:
            yield name, before[name], after


def _listed(changes: list[str]) -> str:
    rest = len(changes) - MOST
    more = [f"and {rest} more"] if rest > 0 else []
    return ", ".join([*changes[:MOST], *more]) or "nothing changes"
