"""One line for each trial of a GradientSampler that begins: what changes, and why."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial

from optuna_hypergrad.algorithms.sign_descent import MAX_UNKNOWN, Settled
from optuna_hypergrad.reports import Claim, read_constraints
from optuna_hypergrad.samplers.describe import (
    SIGNS,
    describe_change,
    describe_factor,
    differ,
    listed,
    short,
)
from optuna_hypergrad.samplers.distributions import is_log, to_distribution
from optuna_hypergrad.samplers.gradient.history import OuterStep, outer_step
from optuna_hypergrad.samplers.gradient.search import Decision, Search
from optuna_hypergrad.samplers.ranking import violation

LARGEST = 700.0  # whose exponential is still a float


def describe_step(
    claim: Claim,
    decision: Decision | None,
    *,
    is_again: bool,
    is_enqueued: bool,
    one_of_many: bool,
    fixed: Collection[str] = (),
) -> str:
    """What a trial of a GradientSampler is to do.

    Args:
        claim: The trial's.
        decision: The outer step before; None for the first.
        is_again: Whether another trial has claimed the same step.
        is_enqueued: Whether a user has fixed parameters of it.
        one_of_many: Whether there are other chains.
        fixed: Parameters that do not move, whatever is proposed.
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
    kept = {name: value for name, value in step.proposal.items() if name not in fixed}
    step = step._replace(proposal=kept)
    return f"{place}, after {_describe_result(decision, step)}: {_describe_next(decision, step)}."


def describe_end(searches: Sequence[Search], tolerance: float, best: FrozenTrial | None) -> str:
    """Why the searches of a study have ended, and how to go on.

    Args:
        searches: One for each chain, all of which have converged.
        tolerance: Below which fraction of its range a step size is small.
        best: The best trial, if there is one.
    """
    of_chains = f"all {len(searches)} searches have" if len(searches) > 1 else "the search has"
    why, on = _why_settled(searches, tolerance)
    ways = [*on, f"GradientSampler(n_chains={len(searches) + 1}) adds a search from another start"]
    return (
        f"The study ends, since {of_chains} converged: {'; '.join(why)}. {_describe_best(best)}"
        f"To go on: {', or '.join(ways)}."
    )


def _why_settled(searches: Sequence[Search], tolerance: float) -> tuple[list[str], list[str]]:
    """Why parameters have settled, and what of it can be changed."""
    found: dict[str, dict[str, None]] = {reason: {} for reason in Settled._fields}
    blamed: dict[str, None] = {}
    for search in searches:
        blamed |= dict.fromkeys(repr(name) for name in sorted(search.halved_by))
        for reason, names in search.settled(tolerance).items():
            found[reason] |= dict.fromkeys(names)
    why, on = [], []
    if any(search.is_silent for search in searches):
        why.append(f"{MAX_UNKNOWN} trials of one point reported no hypergradient")
        on.append("call report_hypergradient in every trial, feasible ones as well")
    if found["unknown"]:
        why.append(
            f"no hypergradient is reported any more of {listed([*found['unknown']])}, "
            f"for {MAX_UNKNOWN} trials"
        )
        on.append("report the loss's hypergradient of these, not a constraint's alone")
    if found["flat"]:
        why.append(f"the hypergradient stays 0 for {listed([*found['flat']])}")
        on.append("check that the loss depends on what stays 0")
    if found["on_bound"]:
        why.append(f"{listed([*found['on_bound']])} at a bound of the range")
        on.append("widen the range of what is on a bound")
    if found["small"]:
        why.append(f"γ is below {short(tolerance)} of the range for {listed([*found['small']])}")
    if found["small"] and blamed:
        why.append(f"γ was halved where trials violated {listed([*blamed])}")
        on.append("report hypergradients of what is violated (constraint=...) that are not 0")
        on.append("exclude values of other parameters that violate it")
    if found["small"]:
        on.append(f"GradientSampler(tolerance={short(tolerance / 10)}) takes smaller steps")
    return why, on


def _describe_result(decision: Decision, step: OuterStep) -> str:
    value = "" if step.value is None else f" ({short(step.value)})"
    excess = f"was infeasible by {short(step.violation)}" if step.violation else ""
    is_said = bool(excess) and (decision.verdict == "accepted" or decision.is_drawn_anew)
    became = "" if is_said else _describe_status(step)
    told = " and ".join(part for part in (excess, became) if part)
    return f"trial {'+'.join(map(str, step.trials))}{value} {told}"


def _describe_status(step: OuterStep) -> str:
    """What became of an outer step; what counts as diverged may have been pruned, or failed."""
    return step.status if step.status in ("diverged", "failed") else f"was {step.status}"


def _describe_next(decision: Decision, step: OuterStep) -> str:
    state = decision.after.state
    if decision.is_drawn_anew:
        return f"the same point again, with {listed(decision.not_learned)} drawn anew"
    if state is None:
        return "another start"
    if state is decision.before.state:  # a guess that did not turn out well
        return f"back to where the search was, {_list_moves(_changed(decision, step))}"
    if state.remeasures:
        return f"back to the best point, {_list_moves(_changed(decision, step))}"
    is_rejected = decision.verdict in ("rejected", "diverged") and decision.before.state is not None
    if is_rejected and state.best is not None:
        return (
            f"on from the best point, {_list_moves(_moves(decision, step, _best_point(decision)))}"
        )
    return _list_moves(_moves(decision, step, step.params))


def _best_point(decision: Decision) -> dict[str, Any]:
    """Where the best point lies, by parameter."""
    after = decision.after
    assert after.state is not None and after.state.best is not None
    values = after.ranges.to_natural(after.state.best.point).tolist()
    by_name = zip(after.names, values, strict=True)
    return {name: to_distribution(value, after.learned[name]) for name, value in by_name}


def _list_moves(changes: Iterator[str]) -> str:
    return listed([*changes], "no learned parameter moves")


def _changed(decision: Decision, step: OuterStep) -> Iterator[str]:
    """What the next trial runs with where the last one did not."""
    for name, before, after in _next_changes(step, decision.after.learned, step.params):
        yield f"{name} {describe_change(before, after)}"


def _moves(decision: Decision, step: OuterStep, origin: Mapping[str, Any]) -> Iterator[str]:
    """The steps that are taken from a point."""
    learned = decision.after.learned
    for name, before, after in _next_changes(step, learned, origin):
        move = _move(before, after, step.step_size[name], learned[name])
        yield f"{name} {describe_change(before, after)} (sign {SIGNS[step.sign[name]]}, {move})"


def _next_changes(
    step: OuterStep, learned: Mapping[str, BaseDistribution], origin: Mapping[str, Any]
) -> Iterator[tuple[str, Any, Any]]:
    for name in (name for name in step.proposal if name in origin):
        before, after = origin[name], to_distribution(step.proposal[name], learned[name])
        if differ(before, after):
            yield name, before, after


def _move(before: float, after: float, gamma: float, distribution: BaseDistribution) -> str:
    """The step size; of a logarithmic range, as a factor. A bound may cut a step short."""
    is_cut = after in (getattr(distribution, "low", None), getattr(distribution, "high", None))
    if is_log(distribution):
        is_cut = is_cut and abs(math.log(after / before)) < 0.999 * gamma
        told = f"×{describe_factor(math.exp(gamma)) if gamma < LARGEST else 'inf'}"
    else:
        is_cut = is_cut and abs(after - before) < 0.999 * gamma
        told = short(gamma)
    return "to its bound" if is_cut else f"γ {told}"


def _describe_best(best: FrozenTrial | None) -> str:
    if best is None or best.value is None:
        return ""
    if excess := violation(best):
        violated = [repr(name) for name, value in read_constraints(best).items() if value > 0]
        return (
            f"No trial is feasible; trial {best.number} is infeasible by {short(excess)} "
            f"({listed(violated)}). "
        )
    return f"Best: trial {best.number} ({short(best.value)}). "
