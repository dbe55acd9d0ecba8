"""How the searches of a study got where they are: their outer steps, and a summary of each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from optuna_hypergrad.algorithms.sign_descent import Verdict
from optuna_hypergrad.reports.claims import Rule, read_claim
from optuna_hypergrad.reports.objective import mean, read_gradient, total_violation
from optuna_hypergrad.samplers.gradient.chains import Chain, ancestry
from optuna_hypergrad.samplers.gradient.search import (
    Decision,
    decisions,
    longest_trial,
    mean_gradient,
)
from optuna_hypergrad.samplers.gradient.table import Table
from optuna_hypergrad.samplers.studies import best_first, check_one_objective, maximizes, rank_key

Failure = Literal["diverged", "pruned", "failed"]
Status = Verdict | Failure


class OuterStep(NamedTuple):
    """One decided outer step of a search; mappings are by trial parameter."""

    chain: int
    step: int
    trials: tuple[int, ...]
    """Numbers of the trials that decided it: replicates of one point."""
    verdict: Verdict
    """``"accepted"``: the search continues from it, also on the way back to the feasible region.
    ``"rejected"``: the search returns to the best point, or starts elsewhere while none is
    feasible; or it stays, and the parameters without hypergradients are drawn again, since they may
    violate the constraints. ``"diverged"``: the search returns, too, if there is a best point; a
    start that diverged is followed by another, and with ``safeguard=None`` the search continues.
    ``"measured again"``: it was the best point, run once more."""
    value: float | None
    """Mean objective value of the replicates that did not diverge."""
    params: dict[str, Any]
    """The parameters of the trials."""
    gradient: dict[str, float]
    """Mean hypergradient, in loss per unit of the parameter."""
    reports: tuple[dict[str, float], ...]
    """The hypergradient of each replicate, in the order of ``trials``."""
    step_size: dict[str, float]
    """γ of the next move, in units of the parameter, or of its natural logarithm where its range is
    logarithmic; empty while every start has diverged."""
    sign: dict[str, int]
    """Signs of the hypergradient that the move descends: of the loss, of its projection along a
    constraint that was violated just before, or of the violated constraints. 0 where unknown."""
    flipped: frozenset[str]
    """Parameters for which that hypergradient (see ``sign``) has the opposite sign of the last
    move. After an accepted step, γ is halved for these and no others; a flip on entering the
    infeasible region is not counted, and halves nothing."""
    proposal: dict[str, float]
    """Where the move leads, in units of the parameter; not rounded."""
    windows: Mapping[str, tuple[int, ...]]
    """By schedule with ``windows="auto"``: how many parameters each shared window holds."""
    violation: float = 0.0
    """Total violation of the replicates' mean constraints; 0 where they are feasible."""
    status: Status = "accepted"
    """The verdict; but ``"pruned"`` or ``"failed"`` where that is why all trials count as
    diverged."""


class ChainSummary(NamedTuple):
    """Where one search of a study stands."""

    chain: int
    steps: int  # outer steps decided
    best_trial: int | None  # number of the chain's best complete trial
    best_value: float | None
    converged: bool
    windows: Mapping[str, tuple[int, ...]]
    """By schedule with ``windows="auto"``: how many parameters each shared window holds."""


def summaries(table: Table, n_chains: int) -> list[ChainSummary]:
    """Where each chain stands, the one with the best trial first."""
    keys: dict[int, tuple[float, ...]] = {}
    found = []
    for chain in map(table.chain, range(n_chains)):
        trials = [one.trial for claimed in chain.steps for one in claimed]
        best = next(iter(best_first(trials, table.maximize)), None)
        keys[chain.number] = (math.inf,) if best is None else rank_key(best, table.maximize)
        summary = ChainSummary(
            chain=chain.number,
            steps=chain.n_decided,
            best_trial=None if best is None else best.number,
            best_value=None if best is None else best.value,
            converged=chain.has_converged(table.rule.tolerance),
            windows=chain.search.windows,
        )
        found.append(summary)
    return sorted(found, key=lambda summary: keys[summary.chain])


def outer_steps(study: Study) -> list[OuterStep]:
    """The decided outer steps of a study's searches, by chain and step.

    They follow from the stored trials alone, whatever the study's sampler is now. If the arguments
    of the sampler have changed, each step is as the sampler saw it that continued from it.

    Args:
        study: The study; one without trials of a ``GradientSampler`` has no outer steps.

    Raises:
        ValueError: If ``study`` is no study, or has several objectives.
        StoredDataError: If a storage returns something that was not written there.

    Example:
        >>> import optuna
        >>> from optuna_hypergrad import GradientSampler, outer_steps, report_hypergradient
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> def objective(trial):
        ...     x = trial.suggest_float("x", -1, 1)
        ...     report_hypergradient(trial, {"x": 2 * (x - 0.25)})
        ...     return (x - 0.25) ** 2
        >>> sampler = GradientSampler(seed=0, strategy="sign_descent")
        >>> study = optuna.create_study(sampler=sampler)
        >>> study.optimize(objective, n_trials=5)
        >>> [(step.params["x"].__round__(2), step.verdict) for step in outer_steps(study)][:3]
        [(0.0, 'accepted'), (0.1, 'accepted'), (0.2, 'accepted')]
    """
    check_one_objective(study)
    trials = study.get_trials(deepcopy=False)
    claims = (read_claim(trial.number, trial.system_attrs) for trial in reversed(trials))
    rule = next((claim.rule for claim in claims if claim is not None), Rule())
    table = Table(rule, maximizes(study))
    table.read(trials)
    chains = [table.chain(number) for number in sorted(table.steps)]
    return [outer_step(one) for chain in chains for one in _decisions(chain, table)]


def _decisions(chain: Chain, table: Table) -> list[Decision]:
    """The decisions of a chain, each by the rule of the sampler that continued from it."""
    if not chain.used:
        return []
    path = [*ancestry(chain.steps, chain.used[0].claim), chain.used]
    rules = [*(used[0].claim.rule for used in path[1:]), table.rule]
    distinct = [rule for i, rule in enumerate(rules) if rule not in rules[:i]]
    by_rule = [decisions(path, rule, table.maximize) for rule in distinct]
    return [by_rule[distinct.index(rule)][step] for step, rule in enumerate(rules)]


def outer_step(decision: Decision) -> OuterStep:
    """A decision for people to see."""
    used, after = decision.used, decision.after
    claim, state = used[0].claim, after.state
    values = [o.trial.value for o in used if not o.diverged and o.trial.value is not None]
    # An infinite violation is a large number in the search.
    violations = [total_violation(o.report.constraints) for o in used if not o.diverged]
    total = decision.outcome.violation
    step_size, sign = {}, {}
    if state is not None:
        step_size = dict(zip(after.space, state.step_size.tolist(), strict=True))
        sign = dict(zip(after.space, state.sign.tolist(), strict=True))
    return OuterStep(
        chain=claim.chain,
        step=claim.step,
        trials=tuple(one.trial.number for one in used),
        verdict=decision.verdict,
        value=mean(values) if values else None,
        params=dict(longest_trial(used).params),
        gradient=mean_gradient(used),
        reports=tuple(dict(one.report.gradient or {}) for one in used),
        step_size=step_size,
        sign=sign,
        flipped=_flipped(decision),
        proposal=after.point(),
        windows=after.windows,
        violation=math.inf if total and math.inf in violations else total,
        status=_status(decision),
    )


def failure_of(trial: FrozenTrial) -> Failure:
    """Why a trial counts as diverged.

    One that reported NaN has diverged, whether Optuna calls its NaN loss a failure or it was
    pruned.
    """
    is_finite = all(map(math.isfinite, (read_gradient(trial) or {}).values()))
    if is_finite and trial.state == TrialState.FAIL:
        return "failed"
    return "pruned" if is_finite and trial.state == TrialState.PRUNED else "diverged"


def _status(decision: Decision) -> Status:
    if decision.verdict != "diverged":
        return decision.verdict
    failures = {failure_of(one.trial) for one in decision.used if one.diverged}
    return failures.pop() if len(failures) == 1 else "diverged"


def _flipped(decision: Decision) -> frozenset[str]:
    """The parameters whose hypergradient has the opposite sign of the last move."""
    before, after = decision.before, decision.after.state
    if before.state is None:
        return frozenset()
    if decision.verdict in ("accepted", "measured again") and after is not None:
        has_flipped = after.step_size < before.state.step_size  # only a flip halves γ
    else:
        gradient = decision.outcome.gradient
        sign = np.sign(np.where(np.isfinite(gradient), gradient, 0))
        has_flipped = sign * before.state.sign < 0
    return frozenset(name for name, flip in zip(before.space, has_flipped, strict=True) if flip)
