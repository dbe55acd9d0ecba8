"""How a search came where it is: its outer steps, and what became of each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from optuna_hypergrad.algorithms.sign_descent import Verdict
from optuna_hypergrad.reports import Rule, read_claim, read_gradient
from optuna_hypergrad.samplers.gradient.search import Decision
from optuna_hypergrad.samplers.gradient.steps import mean, mean_gradient
from optuna_hypergrad.samplers.gradient.table import Table
from optuna_hypergrad.samplers.ranking import violation
from optuna_hypergrad.samplers.studies import check_one_objective, maximizes

Lost = Literal["diverged", "pruned", "failed"]
Status = Verdict | Lost


class OuterStep(NamedTuple):
    """One decided outer step of a search; mappings are by trial parameter."""

    chain: int
    step: int
    trials: tuple[int, ...]
    """Numbers of the trials that decided it: replicates of one point."""
    verdict: Verdict
    """``"accepted"``: the search goes on from it, also where that leads back to the feasible
    region. ``"rejected"``: it goes back to the best point, or elsewhere while none is feasible;
    or it stays and has what is not learned drawn anew, since that may violate the constraints.
    ``"diverged"``: so it does, if there is one; a start that diverged is followed by another, and
    with ``safeguard=None`` the search goes on. ``"measured again"``: that was the best point, run
    once more."""
    value: float | None
    """Mean objective value of the replicates that did not diverge."""
    params: dict[str, Any]
    """What the trials ran with."""
    gradient: dict[str, float]
    """Mean hypergradient, in loss per unit of the parameter."""
    reports: tuple[dict[str, float], ...]
    """The hypergradient of each replicate, in the order of ``trials``."""
    step_size: dict[str, float]
    """γ of the move that follows, in units of the parameter, or of its natural logarithm where
    its range is logarithmic; empty while every start has diverged."""
    sign: dict[str, int]
    """Signs of the hypergradient that the move goes against: of the loss, of its part along a
    constraint that was violated just before, or of the violated constraints. 0 where nothing is
    known."""
    flipped: frozenset[str]
    """Parameters for which what the search follows (see ``sign``) has turned against the sign that
    it came by. Of an accepted step, γ is halved for these, and for no others; to turn round at a
    constraint is not counted, and halves nothing."""
    proposal: dict[str, float]
    """Where the move leads, in units of the parameter; not rounded."""
    windows: Mapping[str, tuple[int, ...]]
    """By schedule with ``windows="auto"``: how many parameters each shared window holds."""
    violation: float = 0.0
    """Total violation of the replicates' mean constraints; 0 where they are feasible."""
    status: Status = "accepted"
    """The verdict; but ``"pruned"`` or ``"failed"`` where all trials were that make it count as
    diverged."""


def outer_steps(study: Study) -> list[OuterStep]:
    """The decided outer steps of a study's searches, by chain and step.

    They are worked out from the stored trials alone, whatever the study's sampler is now; each as
    the sampler saw it that went on from it, should its arguments have changed.

    Args:
        study: The study; one without trials of a ``GradientSampler`` has no outer steps.

    Raises:
        ValueError: If ``study`` is not one, or has several objectives.
        StoredDataError: If the storage holds something else than what was written there.

    Example:
        >>> import optuna
        >>> from optuna_hypergrad import GradientSampler, outer_steps, report_hypergradient
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> def objective(trial):
        ...     x = trial.suggest_float("x", -1, 1)
        ...     report_hypergradient(trial, {"x": 2 * (x - 0.25)})
        ...     return (x - 0.25) ** 2
        >>> study = optuna.create_study(sampler=GradientSampler(seed=0))
        >>> study.optimize(objective, n_trials=5)
        >>> [(step.params["x"].__round__(2), step.verdict) for step in outer_steps(study)][:3]
        [(0.0, 'accepted'), (0.1, 'accepted'), (0.2, 'accepted')]
    """
    check_one_objective(study)
    trials = study.get_trials(deepcopy=False)
    table = Table(_rule(trials), maximizes(study))
    table.read(trials)
    return [outer_step(one) for number in table.chains for one in table.decisions(number)]


def outer_step(decision: Decision) -> OuterStep:
    """A decision as people see it."""
    used, after = decision.used, decision.after
    claim, state = used[0].claim, after.state
    values = [o.trial.value for o in used if not o.diverged and o.trial.value is not None]
    by_name: dict[str, Any] = {"step_size": {}, "sign": {}}
    if state is not None:
        by_name["step_size"] = dict(zip(after.names, state.step_size.tolist(), strict=True))
        by_name["sign"] = dict(zip(after.names, state.sign.tolist(), strict=True))
    return OuterStep(
        chain=claim.chain,
        step=claim.step,
        trials=tuple(one.trial.number for one in used),
        verdict=decision.verdict,
        value=mean(values) if values else None,
        params=dict(max(used, key=lambda one: len(one.trial.params)).trial.params),
        gradient=mean_gradient(used),
        reports=tuple(one.gradient or {} for one in used),
        flipped=_flipped(decision),
        proposal=after.point(),
        windows=after.windows,
        violation=_violation(decision),
        status=_status(decision),
        **by_name,
    )


def lost_as(trial: FrozenTrial) -> Lost:
    """What became of a trial that counts as diverged.

    One that reported NaN has diverged, be it that Optuna calls its NaN loss a failure, or that it
    was pruned then.
    """
    is_finite = all(map(math.isfinite, (read_gradient(trial) or {}).values()))
    if is_finite and trial.state == TrialState.FAIL:
        return "failed"
    return "pruned" if is_finite and trial.state == TrialState.PRUNED else "diverged"


def _status(decision: Decision) -> Status:
    if decision.verdict != "diverged":
        return decision.verdict
    lost = {lost_as(one.trial) for one in decision.used if one.diverged}
    return lost.pop() if len(lost) == 1 else "diverged"


def _violation(decision: Decision) -> float:
    """Infinite where a replicate's is: the search counts with a large number instead."""
    sound = (one.trial for one in decision.used if not one.diverged)
    total = decision.outcome.violation
    return math.inf if total and math.inf in map(violation, sound) else total


def _flipped(decision: Decision) -> frozenset[str]:
    """Where what is followed has turned against the signs that the search moved along."""
    before, after = decision.before, decision.after.state
    if before.state is None:
        return frozenset()
    if decision.verdict in ("accepted", "measured again") and after is not None:
        turned = after.step_size < before.state.step_size  # which only a flip brings about
    else:
        gradient = decision.outcome.gradient
        turned = np.sign(np.where(np.isfinite(gradient), gradient, 0)) * before.state.sign < 0
    return frozenset(name for name, is_so in zip(before.names, turned, strict=True) if is_so)


def _rule(trials: Sequence[FrozenTrial]) -> Rule:
    """That of the latest trial of a search."""
    claims = (read_claim(trial.number, trial.system_attrs) for trial in reversed(trials))
    return next((claim.rule for claim in claims if claim is not None), Rule())
