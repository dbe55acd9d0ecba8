"""One search: how the trials that ran an outer step decide it, and where that leads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from optuna_hypergrad.algorithms import sign_descent
from optuna_hypergrad.algorithms.ranges import Array, Ranges
from optuna_hypergrad.algorithms.sharing import shared_gradient, shared_windows
from optuna_hypergrad.algorithms.sign_descent import Outcome, Verdict
from optuna_hypergrad.reports.claims import Claim, Rule, read_superfluous
from optuna_hypergrad.reports.objective import Report, mean, mean_by_name, total_violation
from optuna_hypergrad.samplers.distributions import first_step_sizes, ranges_of, to_distribution
from optuna_hypergrad.schedules import parameter_names

MAX_REDRAWS = 3  # of the parameters without hypergradients, before an infeasible point is left


class ClaimedTrial(NamedTuple):
    """A trial that claimed an outer step, and what it says about its point."""

    trial: FrozenTrial
    claim: Claim
    report: Report
    reported: set[str]
    """The parameters with a hypergradient of the loss or of a constraint."""
    has_report: bool
    """Whether it reported the hypergradient of its loss or of a constraint."""
    is_enqueued: bool
    """Whether a user fixed parameters of it with ``study.enqueue_trial``."""
    is_superfluous: bool
    """Whether ``ConsensusPruner`` ended it."""
    failed: bool
    """Whether an error ended it; a NaN loss ends a trial so, too, but goes with a NaN report."""
    diverged: bool
    """Whether it ended where the search must not continue."""
    is_usable: bool
    """Whether it has finished and can decide its step."""

    @classmethod
    def of(cls, trial: FrozenTrial, claim: Claim) -> ClaimedTrial:
        """A trial with what it has reported by now."""
        report, state = Report.of(trial), trial.state
        has_report = report.gradient is not None or bool(report.constraint_gradients)
        is_finite = all(map(math.isfinite, (report.gradient or {}).values()))
        is_enqueued = is_enqueued_trial(trial)
        is_superfluous = state == TrialState.PRUNED and read_superfluous(trial)
        failed = state == TrialState.FAIL and is_finite
        has_value = trial.value is not None and math.isfinite(trial.value)
        if has_report:
            is_usable = state.is_finished() and not failed and not is_superfluous
        else:  # only being pruned says that the sampler's own point is bad
            is_usable = state == TrialState.PRUNED and not is_enqueued and not is_superfluous
        return cls(
            trial=trial,
            claim=claim,
            report=report,
            reported=report.parameters,
            has_report=has_report,
            is_enqueued=is_enqueued,
            is_superfluous=is_superfluous,
            failed=failed,
            diverged=state != TrialState.COMPLETE or not is_finite or not has_value,
            is_usable=is_usable,
        )


def is_enqueued_trial(trial: FrozenTrial) -> bool:
    """Whether a user fixed parameters of a trial with ``study.enqueue_trial``."""
    return bool(trial.system_attrs.get("fixed_params"))


class Search(NamedTuple):
    """A search over the parameters with hypergradients, after some decisions."""

    space: Mapping[str, BaseDistribution]  # these parameters, and the latest range of each
    ranges: Ranges
    state: sign_descent.State | None = None  # None until a first trial ended without diverging
    restarts: int = 0  # how many starts have diverged
    windows: Mapping[str, tuple[int, ...]] = {}  # by schedule with windows="auto", as last shared
    redraws: int = 0  # how often in a row an infeasible point was repeated with other parameters
    halved_by: frozenset[str] = frozenset()  # constraints without hypergradients that halved γ

    @classmethod
    def over(cls, space: Mapping[str, BaseDistribution]) -> Search:
        """A search before its first decision."""
        return cls(space, ranges_of([*space.values()]))

    def point(self) -> dict[str, float]:
        """The next point by parameter, in natural units; empty at the start."""
        if self.state is None:
            return {}
        values = self.ranges.to_natural(self.state.point).tolist()
        return dict(zip(self.space, values, strict=True))


class Decision(NamedTuple):
    """A decided outer step of a search."""

    used: Sequence[ClaimedTrial]  # the trials that decided it
    before: Search
    outcome: Outcome  # its arrays are in the order of ``before.space``
    verdict: Verdict
    after: Search

    @property
    def is_redrawn(self) -> bool:
        """Whether the same point runs again, with other values of ``independent``."""
        return self.after.redraws > self.before.redraws

    @property
    def independent(self) -> list[str]:
        """The parameters that the independent sampler drew."""
        return _independent(self.used, self.before)


def decisions(path: Sequence[Sequence[ClaimedTrial]], rule: Rule, maximize: bool) -> list[Decision]:
    """The decisions of a search, given the trials that decided each, from the first step on."""
    space: dict[str, BaseDistribution] = {}
    for used in path:
        space |= reported_space(used)
    search, found = Search.over(space), list[Decision]()
    for used in path:
        found.append(decide(search, used, rule, maximize))
        search = found[-1].after
    return found


def reported_space(used: Sequence[ClaimedTrial]) -> dict[str, BaseDistribution]:
    """The parameters whose hypergradient some trials reported, and their distributions."""
    space: dict[str, BaseDistribution] = {}
    for one in used:
        distributions = one.trial.distributions
        space |= {name: distributions[name] for name in distributions if name in one.reported}
    return space


def decide(search: Search, used: Sequence[ClaimedTrial], rule: Rule, maximize: bool) -> Decision:
    """The decision of ``used``, whose parameters the search knows."""
    state = search.state
    report = Report.mean([one.report for one in used if not one.diverged])
    outcome, windows = _outcome(search, used, report, maximize)
    verdict = sign_descent.verdict(state, outcome, rule.safeguard)
    is_guess = used[0].is_enqueued  # a user's guess that turns out bad changes nothing
    # Infeasible, and no hypergradient leads back.
    is_unguided = (
        rule.safeguard is not None
        and state is not None
        and (outcome.violation > 0 and not outcome.restores)
        and verdict in ("rejected", "measured again")
    )
    # No feasible point is known.
    is_infeasible = state is not None and state.best is not None and state.best.violation > 0
    if state is None and verdict == "diverged" and rule.safeguard is not None:
        after = search._replace(restarts=search.restarts + (not is_guess))
    elif is_guess and sign_descent.is_rejected(state, verdict, rule.safeguard):
        after = search
    elif is_unguided and search.redraws < MAX_REDRAWS and _independent(used, search):
        verdict, after = "rejected", search._replace(redraws=search.redraws + 1)
    elif verdict == "rejected" and is_infeasible and not outcome.restores:
        after = search._replace(state=None, restarts=search.restarts + 1, windows={}, redraws=0)
    else:
        if state is None:
            gamma = first_step_sizes(search.space, search.ranges, rule.step_size)
            state = sign_descent.init(search.ranges, outcome.point, gamma)
        after = search._replace(
            state=sign_descent.advance(state, outcome, search.ranges, rule.safeguard, verdict),
            windows=search.windows if outcome.diverged else windows,
            redraws=0,
            halved_by=search.halved_by.union(report.violated if is_unguided else ()),
        )
    return Decision(used, search, outcome, verdict, after)


def _independent(used: Sequence[ClaimedTrial], search: Search) -> list[str]:
    """The parameters of trials with more than one value that a search does not move."""
    known = {name: dist for one in used for name, dist in one.trial.distributions.items()}
    return [name for name, dist in known.items() if name not in search.space and not dist.single()]


def counted_reports(used: Sequence[ClaimedTrial]) -> list[Report]:
    """The reports of the replicates that did not diverge, if there are any, else of all."""
    return [one.report for one in used if not one.diverged] or [one.report for one in used]


def _outcome(
    search: Search, used: Sequence[ClaimedTrial], report: Report, maximize: bool
) -> tuple[Outcome, dict[str, tuple[int, ...]]]:
    """The joint outcome of replicates, and the shared windows of fine schedules.

    If half of them or more diverged, the outcome is diverged. ``report`` is the mean of the others.
    """
    sound = [one for one in used if not one.diverged]
    restoring = report.restoring_gradient()
    gradient = restoring or (report.gradient if sound else mean_gradient(used)) or {}
    losses = [one.trial.value for one in sound if one.trial.value is not None]
    loss = mean(losses) if losses else math.nan
    outcome = Outcome(
        _point_of(longest_trial(used), search),
        -loss if maximize else loss,
        np.array([gradient.get(name, math.nan) for name in search.space], dtype=float),
        diverged=2 * len(sound) <= len(used),
        violation=total_violation(report.constraints),
        restores=bool(restoring),
    )
    shapes = {name: shape for one in used for name, shape in one.report.schedules.items()}
    fine = {name: shape.size for name, shape in shapes.items() if shape.is_shared}
    return _share(outcome, search, fine) if fine else (outcome, {})


def longest_trial(used: Sequence[ClaimedTrial]) -> FrozenTrial:
    """The replicate with the most parameters; a pruned one may lack some."""
    return max(used, key=lambda one: len(one.trial.params)).trial


def mean_gradient(used: Sequence[ClaimedTrial]) -> dict[str, float]:
    """Mean hypergradient of the replicates that count."""
    return mean_by_name(report.gradient or {} for report in counted_reports(used))


def _point_of(trial: FrozenTrial, search: Search) -> Array:
    """Where a trial ran, in search coordinates.

    That is the proposed point itself for parameters that the trial did not have, or that differ
    only by rounding to an integer or a grid: progress of less than half a step must not be lost.
    """
    ranges, state = search.ranges, search.state
    proposed = ranges.start() if state is None else ranges.to_natural(state.point)
    unmoved = ranges.to_search(proposed) if state is None else state.point
    ran, is_elsewhere = proposed.copy(), np.zeros(len(proposed), dtype=bool)
    for i, (name, value) in enumerate(zip(search.space, proposed.tolist(), strict=True)):
        if name in trial.params:
            ran[i] = own = trial.params[name]
            is_elsewhere[i] = state is None or (
                own != value and own != to_distribution(value, trial.distributions[name])
            )
    if not is_elsewhere.any():
        return unmoved
    return np.where(is_elsewhere, ranges.to_search(np.clip(ran, ranges.low, ranges.high)), unmoved)


def _share(
    outcome: Outcome, search: Search, fine: Mapping[str, int]
) -> tuple[Outcome, dict[str, tuple[int, ...]]]:
    """Let the parameters of a fine schedule share their mean over a window.

    Parameters that move together take the same step in search coordinates, so the hypergradient
    is averaged there. Unknown entries count as zero.

    Args:
        outcome: The outcome of a step.
        search: The search; its parameters order the outcome.
        fine: Number of parameters by schedule.

    Returns:
        The outcome with shared hypergradients, and the windows by schedule.
    """
    ranges, gradient, names = search.ranges, outcome.gradient.copy(), [*search.space]
    windows: dict[str, tuple[int, ...]] = {}
    searched = ranges.unit_gradient(ranges.to_natural(outcome.point), gradient)
    for schedule, size in fine.items():
        own = [names.index(name) for name in parameter_names(schedule, size) if name in names]
        known = np.isfinite(searched[own])
        if known.any():
            h = np.where(known, searched[own], 0.0)
            windows[schedule] = shared_windows(h)
            gradient[own] = shared_gradient(h, windows[schedule])
    return outcome._replace(gradient=gradient), windows
