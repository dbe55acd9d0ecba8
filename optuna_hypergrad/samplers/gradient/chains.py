"""Outer steps of a chain: which trials claimed each, and which of them decide it.

Several trials may claim the same outer step: replicates of parallel workers, retries of failed
trials, enqueued points. The first trial that claims the next step names those that decided, so that
they do not change, whoever finishes late.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

from optuna.trial import FrozenTrial, TrialState

from optuna_hypergrad.algorithms import sign_descent
from optuna_hypergrad.reports.attributes import StoredDataError
from optuna_hypergrad.reports.claims import Claim
from optuna_hypergrad.samplers.gradient.search import ClaimedTrial, Search

MAX_FAILURES = 3  # a step of which that many trials failed is decided by those that did not

Steps = Sequence[Sequence[ClaimedTrial]]  # by outer step, the trials that claimed it, by number


def add_claimed(steps: list[list[ClaimedTrial]], one: ClaimedTrial) -> None:
    """Add a trial to the step that it claimed, or replace an older state of it there."""
    steps += [[] for _ in range(1 + one.claim.step - len(steps))]
    step, number = steps[one.claim.step], one.trial.number
    at = bisect_left(step, number, key=lambda other: other.trial.number)
    is_known = at < len(step) and step[at].trial.number == number
    step[at : at + is_known] = [one]


def deciding_trials(steps: Steps, n_replicates: int) -> list[ClaimedTrial]:
    """The trials that decided the latest decided step; none before the first decision.

    They are the usable trials of the last step that ran the same point, once they are enough. Where
    the step keeps failing, or a replicate was superfluous, there may be fewer.
    """
    if not steps:
        return []
    claimed = steps[-1]
    usable = [one for one in claimed if one.is_usable]
    leader = leading(usable or claimed)
    used = [one for one in usable if same_point(one.trial, leader.trial)]
    failed = [one for one in claimed if one.failed]
    if len(failed) >= MAX_FAILURES:
        return used or failed
    superfluous = [one.trial for one in claimed if one.is_superfluous]
    is_settled = any(same_point(one, other.trial) for one in superfluous for other in used)
    is_decided = used and (is_settled or len(used) >= n_replicates)
    return used if is_decided else used_by(steps, leading(claimed).claim)


def used_by(steps: Steps, claim: Claim) -> list[ClaimedTrial]:
    """The trials that decided the step before that of a claim; none for the first step.

    Raises:
        StoredDataError: If they are not the trials of that step.
    """
    if claim.step == 0:
        return []
    previous = steps[claim.step - 1] if claim.step <= len(steps) else ()
    by_number = {one.trial.number: one for one in previous if one.trial.state.is_finished()}
    if not claim.used or any(number not in by_number for number in claim.used):
        raise StoredDataError(
            f"a claim on step {claim.step} of chain {claim.chain} is based on trials "
            f"{list(claim.used)}, but those of step {claim.step - 1} that have finished are "
            f"{list(by_number)}."
        )
    return [by_number[number] for number in claim.used]


def ancestry(steps: Steps, claim: Claim) -> list[list[ClaimedTrial]]:
    """The trials that decided each step before a claim, from the first step on."""
    path: list[list[ClaimedTrial]] = []
    while used := used_by(steps, claim):
        path.append(used)
        claim = used[0].claim
    return path[::-1]


def same_point(one: FrozenTrial, other: FrozenTrial) -> bool:
    """Whether two trials agree in all parameters that both have; a pruned one may lack some."""
    return all(one.params[name] == other.params[name] for name in one.params.keys() & other.params)


def leading(claimed: Sequence[ClaimedTrial]) -> ClaimedTrial:
    """The trial at whose point a step is decided: an enqueued one, then the lowest number."""
    return min(claimed, key=lambda one: (not one.is_enqueued, one.trial.number))


class Chain(NamedTuple):
    """One search of a study, up to its latest decision."""

    number: int
    steps: Steps
    used: Sequence[ClaimedTrial]  # the trials of this decision; none before the first
    search: Search

    @property
    def n_decided(self) -> int:
        """How many steps are decided."""
        return 1 + self.used[0].claim.step if self.used else 0

    @property
    def next_trials(self) -> Sequence[ClaimedTrial]:
        """The trials that claimed the step to be decided next."""
        step = self.n_decided
        return self.steps[step] if step < len(self.steps) else ()

    @property
    def lacks_reports(self) -> bool:
        """Whether too many trials of the next point reported nothing to expect a report."""
        complete = (one for one in self.next_trials if one.trial.state == TrialState.COMPLETE)
        n_unreported = sum(not one.has_report for one in complete)
        return n_unreported >= sign_descent.MAX_UNKNOWN

    def has_converged(self, tolerance: float) -> bool:
        """Whether every parameter has settled, or reports have stopped."""
        search = self.search
        if self.lacks_reports:
            return True
        if search.state is None:
            return False
        return sign_descent.has_converged(search.state, search.ranges, tolerance)
