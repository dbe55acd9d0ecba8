"""Log lines of a GradientSampler: what each trial runs and why, and why a study ends."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial

from optuna_hypergrad.algorithms import sign_descent
from optuna_hypergrad.algorithms.sign_descent import Settled
from optuna_hypergrad.reports.claims import Claim
from optuna_hypergrad.reports.objective import read_constraints
from optuna_hypergrad.reports.proposals import Proposal
from optuna_hypergrad.samplers.describe import (
    SIGNS,
    describe_change,
    describe_factor,
    differ,
    listed,
    short,
)
from optuna_hypergrad.samplers.distributions import is_log, to_distribution
from optuna_hypergrad.samplers.gradient.chains import Chain
from optuna_hypergrad.samplers.gradient.history import OuterStep, outer_step
from optuna_hypergrad.samplers.gradient.model import Model
from optuna_hypergrad.samplers.gradient.search import Decision
from optuna_hypergrad.samplers.studies import violation

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
    """What a trial of a GradientSampler runs.

    Args:
        claim: The trial's.
        decision: The previous outer step; None for the first.
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
    moved = {name: value for name, value in step.proposal.items() if name not in fixed}
    step = step._replace(proposal=moved)
    return f"{place}, after {_describe_result(decision, step)}: {_describe_next(decision, step)}."


def describe_proposal(
    proposal: Proposal, model: Model, running: Sequence[FrozenTrial], is_enqueued: bool
) -> str:
    """What a trial of the Gaussian process runs.

    Args:
        proposal: The decision about it.
        model: Of the trials before.
        running: Other trials that run.
        is_enqueued: Whether a user has fixed parameters of it.
    """
    n, n_gradients = model.n_losses, model.n_slopes
    if is_enqueued:
        what = "an enqueued point"
    elif not model.space.space:
        what = "the start" if not model.observations else "no parameter is common to all trials"
    elif n < model.n_first:
        what = f"one of the first {model.n_first} points, which are spread over the space"
    elif model.knows_little:
        what = "spread over the space, as all trials so far had the same loss"
    elif model.repeats(running, proposal.trial):
        what = "the best point once more"
    else:
        best = min(model.observations, key=lambda one: one.loss).trial
        value = "" if best.value is None else f" ({short(best.value)})"
        given = f"{n} losses and {n_gradients} hypergradient{'' if n_gradients == 1 else 's'}"
        what = f"to improve on trial {best.number}{value}, given {given}"
    wants = "with" if proposal.wants_hypergradient else "without"
    return f"Trial {proposal.trial}: {what}; {wants} a hypergradient."


def describe_end(chains: Sequence[Chain], tolerance: float, best: FrozenTrial | None) -> str:
    """Why the searches of a study have ended, and how to continue.

    Args:
        chains: The chains, all of which have converged.
        tolerance: The fraction of its range below which a step size is small.
        best: The best trial, if there is one.
    """
    of_chains = f"all {len(chains)} searches have" if len(chains) > 1 else "the search has"
    why, advice = _why_settled(chains, tolerance)
    n_chains = len(chains) + 1
    options = [*advice, f"GradientSampler(n_chains={n_chains}) adds a search from another start"]
    return (
        f"The study ends, since {of_chains} converged: {'; '.join(why)}. {_describe_best(best)}"
        f"To continue: {', or '.join(options)}."
    )


def _why_settled(chains: Sequence[Chain], tolerance: float) -> tuple[list[str], list[str]]:
    """Why parameters have settled, and what can be done about it."""
    found: dict[str, dict[str, None]] = {reason: {} for reason in Settled._fields}
    halved_by: dict[str, None] = {}
    for chain in chains:
        search = chain.search
        halved_by |= dict.fromkeys(repr(name) for name in sorted(search.halved_by))
        if search.state is not None and not chain.lacks_reports:
            settled = sign_descent.settled(search.state, search.ranges, tolerance)
            for reason, where in settled._asdict().items():
                pairs = zip(search.space, where, strict=True)
                found[reason] |= dict.fromkeys(name for name, is_so in pairs if is_so)
    names = {reason: listed([*settled_names]) for reason, settled_names in found.items()}
    why, advice = [], []
    if any(chain.lacks_reports for chain in chains):
        why.append(f"{sign_descent.MAX_UNKNOWN} trials of one point reported no hypergradient")
        advice.append("call report_hypergradient in every trial, feasible ones as well")
    if found["unknown"]:
        why.append(
            f"no hypergradient is reported any more of {names['unknown']}, "
            f"for {sign_descent.MAX_UNKNOWN} trials"
        )
        advice.append("report the loss's hypergradient of these, not a constraint's alone")
    if found["flat"]:
        why.append(f"the hypergradient stays 0 for {names['flat']}")
        advice.append("check that the loss depends on what stays 0")
    if found["on_bound"]:
        why.append(f"{names['on_bound']} at a bound of the range")
        advice.append("widen the range of what is on a bound")
    if found["small"]:
        why.append(f"γ is below {short(tolerance)} of the range for {names['small']}")
    if found["small"] and halved_by:
        why.append(f"γ was halved where trials violated {listed([*halved_by])}")
        advice.append("report hypergradients of what is violated (constraint=...) that are not 0")
        advice.append("exclude values of other parameters that violate it")
    if found["small"]:
        advice.append(f"GradientSampler(tolerance={short(tolerance / 10)}) takes smaller steps")
    return why, advice


def _describe_result(decision: Decision, step: OuterStep) -> str:
    value = "" if step.value is None else f" ({short(step.value)})"
    excess = f"was infeasible by {short(step.violation)}" if step.violation else ""
    is_enough = bool(excess) and (decision.verdict == "accepted" or decision.is_redrawn)
    status = step.status if step.status in ("diverged", "failed") else f"was {step.status}"
    result = " and ".join(part for part in (excess, "" if is_enough else status) if part)
    return f"trial {'+'.join(map(str, step.trials))}{value} {result}"


def _describe_next(decision: Decision, step: OuterStep) -> str:
    state = decision.after.state
    if decision.is_redrawn:
        return f"the same point again, with {listed(decision.independent)} drawn again"
    if state is None:
        return "another start"
    if state is decision.before.state:  # a user's guess turned out bad
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
    by_name = zip(after.space, values, strict=True)
    return {name: to_distribution(value, after.space[name]) for name, value in by_name}


def _list_moves(changes: Iterator[str]) -> str:
    return listed([*changes], "no learned parameter moves")


def _changed(decision: Decision, step: OuterStep) -> Iterator[str]:
    """What the next trial runs with where the last one did not."""
    for name, before, after in _next_changes(step, decision.after.space, step.params):
        yield f"{name} {describe_change(before, after)}"


def _moves(decision: Decision, step: OuterStep, origin: Mapping[str, Any]) -> Iterator[str]:
    """The steps that are taken from a point."""
    space = decision.after.space
    for name, before, after in _next_changes(step, space, origin):
        move = _move(before, after, step.step_size[name], space[name])
        yield f"{name} {describe_change(before, after)} (sign {SIGNS[step.sign[name]]}, {move})"


def _next_changes(
    step: OuterStep, space: Mapping[str, BaseDistribution], origin: Mapping[str, Any]
) -> Iterator[tuple[str, Any, Any]]:
    for name in (name for name in step.proposal if name in origin):
        before, after = origin[name], to_distribution(step.proposal[name], space[name])
        if differ(before, after):
            yield name, before, after


def _move(before: float, after: float, gamma: float, distribution: BaseDistribution) -> str:
    """The step size; of a logarithmic range, as a factor. A bound may cut a step short."""
    is_cut = after in (getattr(distribution, "low", None), getattr(distribution, "high", None))
    if is_log(distribution):
        is_cut = is_cut and abs(math.log(after / before)) < 0.999 * gamma
        size = f"×{describe_factor(math.exp(gamma)) if gamma < LARGEST else 'inf'}"
    else:
        is_cut = is_cut and abs(after - before) < 0.999 * gamma
        size = short(gamma)
    return "to its bound" if is_cut else f"γ {size}"


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
